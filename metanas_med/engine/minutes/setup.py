"""What a search starts from: the checked data, the cost of the default, the candidates and the folds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data.cached import CachedDataset
from ...errors import ConfigError
from ..adapt import AdaptSettings, Prepared, prepare_adaptation
from ..meta_run import MetaRun
from .budget import Budget, Cost
from .fits import Ground, measure
from .folds import Splits, split_support
from .guard import SupportOnly
from .halving import Layout, lay_out
from .portfolio import Portfolio, read_portfolio
from .search import scans_left
from .settings import MinutesSettings


@dataclass(frozen=True)
class Setup:
    """What a search starts from. ``job`` is that of the default configuration; ``ground`` takes all of them."""

    job: Prepared
    ground: Ground
    cost: Cost
    reserve: float  #: seconds to keep for the end
    portfolio: Portfolio
    splits: Splits

    def layout(self, left: float, workers: int, how: MinutesSettings) -> Layout:
        """Return how ``left`` seconds are divided."""
        if self.splits.why_not:
            return Layout(why_not=self.splits.why_not)
        number = 1 if self.splits.weak and not how.search_one_patient else len(self.portfolio.candidates)
        num_folds, num_left = len(self.splits.repeats[0]), scans_left(self.splits)
        return lay_out(left - self.reserve, self.cost, number, num_folds, num_left, workers, how)

    @property
    def content(self) -> tuple[str, ...]:
        """The hashes of the support scans' voxels."""
        return tuple(case.content_hash for case in self.job.data.cases if case.name in self.job.support)

    def fingerprint(self, how: MinutesSettings) -> dict[str, Any]:
        """Return what a stopped search must share with the one that goes on."""
        of_machine = {"workers", "process_seconds", "write_seconds", "slack"}
        return {
            "start": self.ground.run.sha256,
            "support": sorted(self.content),
            "organs": list(self.job.episode.task.names),
            "learner": self.ground.learner.model_dump(mode="json"),
            "plan": self.ground.plan.model_dump(mode="json"),
            "search": how.model_dump(mode="json", exclude=of_machine),
            "seed": self.job.settings.seed,
            "candidates": [c.configuration.name for c in self.portfolio.candidates],
        }


def set_up(
    start: MetaRun,
    data: CachedDataset,
    out: Path,
    settings: AdaptSettings,
    budget: Budget,
    how: MinutesSettings,
    portfolio: Path | None,
    resume: bool,
) -> Setup:
    """Return what a search starts from, prepared and checked as ``adapt`` does, and measured.

    Raises ConfigError where the budget is too short for one step of the default.
    """
    learner = settings.learner or start.settings.adapt
    plan = settings.plan or start.settings.plan.of_adapt()
    begun = budget.spent
    # this applies the default of the start's space, which may be a part of the start's network
    job = prepare_adaptation(start, data, out, settings, replaces=resume)
    planned = budget.spent - begun
    ground = Ground(start, SupportOnly(data, job.support), job.episode.task, learner, plan, job.runtime)
    default = replace(ground, run=job.run, learner=job.learner, plan=job.plan)
    cost = replace(measure(default, job.episode, settings.seed, now=budget.now), plan=planned)
    reserve = how.write_seconds + how.slack * budget.seconds + cost.head + (cost.predict if settings.images else 0.0)
    least = budget.spent + cost.head + cost.step + reserve
    if least > budget.seconds:
        raise ConfigError(
            f"--minutes {budget.seconds / 60:g} is too short for one step of the default configuration here. "
            f"Give at least {1.2 * least / 60:.2g} ({1.2 * least:.0f} s)."
        )
    found = read_portfolio(portfolio, start, learner, plan)
    splits = split_support(ground.data, ground.task, job.support, how.folds, how.max_repeats, settings.seed)
    return Setup(job, ground, cost, reserve, found, splits)
