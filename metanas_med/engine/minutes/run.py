"""``adapt_minutes``: the best model of an organ that a time budget can buy."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.cached import CachedDataset
from ...data.options import ReadOptions
from ...errors import ConfigError
from ...ownership import owned
from ..adapt import AdaptSettings, Prepared, adapt_episode, finish_adaptation, prepare_adaptation, score
from ..configuration import Configuration
from ..meta_run import MetaRun
from ..support import open_dataset
from .budget import Budget, Cost, Now
from .fits import Fit, Fitted, Ground, measure, run_fit
from .guard import SupportOnly
from .settings import MinutesSettings


def adapt_minutes(
    run: MetaRun | Path | str,
    dataset: CachedDataset | Path | str,
    out: Path | str,
    minutes: float,
    settings: AdaptSettings | None = None,
    search: MinutesSettings | None = None,
    *,
    now: Now = time.monotonic,
) -> dict[str, Any]:
    """Return a note on the adaptation after fitting an organ of ``dataset`` from a few scans in ``minutes``."""
    with owned(out):
        s, how = settings or AdaptSettings(), search or MinutesSettings()
        if s.steps is not None:
            raise ConfigError("minutes and steps exclude each other. Give one of the two.")
        reading = ReadOptions(any_intensities=s.any_intensities)
        data = dataset if isinstance(dataset, CachedDataset) else open_dataset(dataset, options=reading, skip_bad=True)
        budget = Budget(60 * minutes, now=now)
        job = prepare_adaptation(run, data, out, s)
        guarded = SupportOnly(data, job.support)
        ground = Ground(job.run, guarded, job.episode.task, job.learner, job.plan, job.runtime)
        planned = budget.spent
        cost = replace(measure(ground, job.episode, s.seed, now=now), plan=planned)
        reserve = _reserve(job, budget, cost, how)
        least = budget.spent + cost.plan + cost.head + cost.step + reserve
        if least > budget.seconds:
            raise ConfigError(
                f"--minutes {minutes:g} is too short for one step of the default here: the least is about "
                f"{least / 60:.2g} ({least:.0f} s)"
            )
        with budget.paused():
            before = _before(job)
        fit = Fit("final", Configuration(), job.support, seed=s.seed, seconds=budget.left, after=reserve, guess=cost.step)
        fitted = run_fit(ground, fit, now)
        return _finish(job, out, fitted, before, {})


def _reserve(job: Prepared, budget: Budget, cost: Cost, how: MinutesSettings) -> float:
    """Return the seconds to keep for the check of the support, the picture and the files."""
    picture = cost.predict if job.settings.images else 0.0
    return how.write_seconds + how.slack * budget.seconds + cost.head + picture


def _before(job: Prepared) -> dict[str, dict[str, float]]:
    """Return the Dice of the start on the scored scans."""
    if not job.scored:
        return {}
    zero = job.learner.model_copy(update={"steps": 0})
    model, _, _ = adapt_episode(job.run, job.episode, zero, job.plan, job.settings.seed, job.runtime)
    return score(model, job.data, job.scored)


def _finish(
    job: Prepared, out: Path | str, fitted: Fitted, before: dict[str, dict[str, float]], more: dict[str, Any]
) -> dict[str, Any]:
    assert fitted.model and fitted.report and fitted.episode and fitted.learner and fitted.plan
    made = replace(job, episode=fitted.episode, learner=fitted.learner, plan=fitted.plan)
    return finish_adaptation(made, out, fitted.model, fitted.report, before, more)
