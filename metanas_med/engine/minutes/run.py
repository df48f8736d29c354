"""``adapt_minutes``: the best model of an organ that a time budget can buy from a few annotated scans.

The budget counts from the opened data set to the written model, without the scoring of held-back scans. The default configuration is
measured first. Where the time allows it, candidates of the start's portfolio are compared on folds of the support (search.py), and
the rest of the time goes to the final fit of what was chosen.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data.cached import CachedDataset
from ...data.options import ReadOptions
from ...errors import CheckpointError, ConfigError, DivergedError
from ...launch import build_launcher
from ...learner import LearnerReport
from ...machine import num_cores
from ...ownership import owned
from ...privacy import CaseIds
from ...space.ensemble import Ensemble
from ...space.network import SegmentationNet
from ...stopping import is_asked_to_stop, unstopped
from ...tasks.episode import make_episode
from ..adapt import AdaptSettings, Prepared, adapt_episode, finish_adaptation, prepare_adaptation, score
from ..configuration import Configuration
from ..meta_run import MetaRun
from ..model import Model
from ..starts import find_start
from ..support import open_dataset
from .budget import Budget, Cost, Now
from .fits import Fit, Fitted, Ground, measure, run_fit
from .folds import Splits, split_support
from .guard import SupportOnly
from .halving import Layout, lay_out
from .note import search_note
from .portfolio import Portfolio, read_portfolio
from .results import Choice
from .search import Search, scans_left
from .settings import MinutesSettings
from .store import FOLDER, Store
from .worker import Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """Where a search is: ``spent`` of ``seconds``, what it does, and the best estimate of the Dice so far."""

    spent: float
    seconds: float
    doing: str
    best: float | None = None


def adapt_minutes(
    run: MetaRun | Path | str,
    dataset: CachedDataset | Path | str,
    out: Path | str,
    minutes: float,
    settings: AdaptSettings | None = None,
    search: MinutesSettings | None = None,
    *,
    resume: bool = False,
    portfolio: Path | None = None,
    on_news: Callable[[News], None] | None = None,
    now: Now = time.monotonic,
) -> dict[str, Any]:
    """Return a note on the adaptation after fitting an organ of ``dataset`` from a few scans in ``minutes``.

    Arguments and files are those of ``adapt``; ``settings.steps`` must be None. ``search`` says how the time is spent. The note has
    ``minutes``: what was tried and chosen, why, and what Dice to expect on new scans. ``portfolio`` is the folder with the
    configurations to try (default: the folder of the start, if ``run`` is no MetaRun).
    A stopped search leaves the best model so far, and ``out``/fits; ``resume`` goes on with the rest of the budget.
    ``on_news`` is called often. ConfigError where ``minutes`` are too few for one step.
    """
    s = settings or AdaptSettings()
    if s.steps is not None:
        raise ConfigError("minutes and steps exclude each other. Give one of the two.")
    if not 0 < minutes < float("inf"):
        raise ConfigError(f"minutes: expected a number above 0, found {minutes}")
    folder = portfolio if portfolio or isinstance(run, MetaRun) else find_start(run)
    with owned(out):
        start = run if isinstance(run, MetaRun) else MetaRun.open(run)
        reading = ReadOptions(any_intensities=s.any_intensities)
        data = dataset if isinstance(dataset, CachedDataset) else open_dataset(dataset, options=reading, skip_bad=True)
        job = _Job(start, data, Path(out), minutes, s, search or MinutesSettings(), folder, on_news or (lambda news: None), now)
        return job.run(resume)


class _Job:
    """One adaptation with a time budget."""

    def __init__(
        self,
        start: MetaRun,
        data: CachedDataset,
        out: Path,
        minutes: float,
        settings: AdaptSettings,
        how: MinutesSettings,
        portfolio: Path | None,
        on_news: Callable[[News], None],
        now: Now,
    ) -> None:
        self.start, self.data, self.out, self.minutes, self.how = start, data, out, minutes, how
        self.settings, self.on_news, self.now, self.folder = settings, on_news, now, portfolio
        ids = CaseIds()
        self.ids = {case.name: ids.add(case.name, case.content_hash) for case in data.cases}
        self.store = Store(out / FOLDER, self.ids)
        self.budget = Budget(60 * minutes, now=now)
        self.before: dict[str, dict[str, float]] = {}

    def run(self, resume: bool) -> dict[str, Any]:
        """Return the note after writing the model."""
        kept = self._resumed() if resume else self._new()
        self.budget = Budget(60 * self.minutes, float(kept.get("spent", 0.0)), self.now)
        self.news("preparing")
        self._prepare(replaces=resume)
        self._measure()
        with self.budget.paused():
            self.before = self._before()
        self.search = self._search(kept)
        try:
            self.search.save()
            self._compare()
            fitted = self._final()
            note = self._finish(fitted, self.choice)
        except KeyboardInterrupt:
            self._keep_best()
            raise
        except BaseException:
            self._drop_empty()
            raise
        self.store.clear()
        return note

    def _drop_empty(self) -> None:
        """Remove the files of a search that has no result."""
        if not self.search.rounds and not self.is_kept:
            self.store.clear()

    def news(self, doing: str) -> None:
        """Tell what is done now, and the best estimate so far."""
        self.on_news(News(self.budget.spent, self.budget.seconds, doing, self.best))

    best: float | None = None  #: Dice that the best choice so far has on left-out scans

    # ---- before the search

    def _new(self) -> dict[str, Any]:
        if self.store.exists:
            raise CheckpointError(f"{self.out} holds a stopped search. Go on with --resume, or choose another --out.")
        return {}

    def _resumed(self) -> dict[str, Any]:
        if not self.store.exists:
            raise CheckpointError(f"{self.out} holds no stopped search. Leave out --resume.")
        return self.store.read()

    def _prepare(self, replaces: bool) -> None:
        """Prepare as ``adapt`` does, with the default configuration of the start."""
        learner = self.settings.learner or self.start.settings.adapt
        plan = self.settings.plan or self.start.settings.plan.of_adapt()
        run, own_learner, own_plan = Configuration().apply(self.start, learner, plan)
        own = self.settings.model_copy(update={"learner": own_learner, "plan": own_plan})
        self.job: Prepared = prepare_adaptation(run, self.data, self.out, own, replaces=replaces)
        guarded = SupportOnly(self.data, self.job.support)
        self.ground = Ground(self.start, guarded, self.job.episode.task, learner, plan, self.job.runtime)

    def _measure(self) -> None:
        """Measure the default; ConfigError where the budget is too short for one step of it."""
        planned = self.budget.spent
        own = replace(self.ground, run=self.job.run, learner=self.job.learner, plan=self.job.plan)
        self.cost: Cost = replace(measure(own, self.job.episode, self.settings.seed, now=self.now), plan=planned)
        picture = self.cost.predict if self.settings.images else 0.0
        self.reserve = self.how.write_seconds + self.how.slack * self.budget.seconds + self.cost.head + picture
        least = self.budget.spent + self.cost.head + self.cost.step + self.reserve
        if least > self.budget.seconds:
            raise ConfigError(
                f"--minutes {self.minutes:g} is too short for one step of the default configuration here. "
                f"Give at least {1.2 * least / 60:.2g} ({1.2 * least:.0f} s)."
            )

    def _before(self) -> dict[str, dict[str, float]]:
        """Return the Dice of the start on the scored scans."""
        job = self.job
        if not job.scored:
            return {}
        zero = job.learner.model_copy(update={"steps": 0})
        model, _, _ = adapt_episode(job.run, job.episode, zero, job.plan, job.settings.seed, job.runtime)
        return score(model, job.data, job.scored)

    def _search(self, kept: dict[str, Any]) -> Search:
        """Return the search, new or as it was kept."""
        g, how = self.ground, self.how
        self.portfolio: Portfolio = read_portfolio(self.folder, g.run, g.learner, g.plan)
        splits = split_support(g.data, g.task, self.job.support, how.folds, how.max_repeats, self.settings.seed)
        fingerprint = self._fingerprint()
        if kept and kept.get("fingerprint") != fingerprint:
            raise CheckpointError(
                f"{self.out}: the stopped search had another start, support, portfolio or settings. Give those, or another --out."
            )
        layout = Layout(**{**kept["layout"], "sizes": tuple(kept["layout"]["sizes"])}) if kept else self._layout(splits)
        if kept and how.workers:
            layout = replace(layout, workers=how.workers)
        header = {"fingerprint": fingerprint, "layout": dict(vars(layout))}
        found = Search(
            self.portfolio.candidates,
            splits,
            layout,
            self.cost,
            self.budget,
            self.store,
            how,
            seed=self.settings.seed,
            reserve=self.reserve,
            header=header,
        )
        if kept:
            found.restore(kept)
        return found

    def _layout(self, splits: Splits) -> Layout:
        if splits.why_not:
            return Layout(why_not=splits.why_not)
        number = 1 if splits.weak and not self.how.search_one_patient else len(self.portfolio.candidates)
        many = self.how.workers or num_cores()
        if self.job.runtime.device.type != "cpu" or self.now is not time.monotonic:
            many = 1
        left, num_folds, num_left = self.budget.left - self.reserve, len(splits.repeats[0]), scans_left(splits)
        if many > 1:
            later = left - self.how.process_seconds
            layout = lay_out(later, self.cost, number, num_folds, num_left, many, self.how)
            if layout.seconds >= 10 * self.how.process_seconds:
                return layout
        return lay_out(left, self.cost, number, num_folds, num_left, 1, self.how)

    def _fingerprint(self) -> dict[str, Any]:
        job = self.job
        support = [c.content_hash for c in self.data.cases if c.name in job.support]
        return {
            "start": self.start.sha256,
            "support": sorted(support),
            "organs": list(job.episode.task.names),
            "learner": self.ground.learner.model_dump(mode="json"),
            "plan": self.ground.plan.model_dump(mode="json"),
            "search": self.how.model_dump(mode="json", exclude={"workers", "process_seconds", "write_seconds", "slack"}),
            "seed": self.settings.seed,
            "candidates": [c.configuration.name for c in self.portfolio.candidates],
        }

    # ---- the search

    def _compare(self) -> None:
        """Run all fits on folds, and the final members of an average."""
        fits, search = self.search.begin(), self.search
        if not fits:
            return
        job, layout = self.job, search.layout
        support = tuple(c.content_hash for c in self.data.cases if c.name in job.support)
        worker = Worker(self.ground, self.store, support, job.usual, job.intensities, self.now)
        launcher = build_launcher("processes" if layout.workers > 1 else "serial", layout.workers)
        self.news(f"comparing {len(search.rounds[-1].names)} configuration(s)")
        for fitted in launcher.map(worker, fits, search.then):
            log.info("%s: Dice %.3f, %s steps, %.1f s%s", fitted.key, fitted.mean, fitted.steps, fitted.seconds, fitted.failed)
            self.best = search.results.expected(search.results.choose(), len(job.support)).dice
            self.news(f"comparing, round {len(search.rounds)}")

    def _final(self) -> Fitted:
        """Return the final fit of what was chosen."""
        search = self.search
        choice = self.choice = search.results.choose()
        if not search.rounds:
            choice.why = search.layout.why_not or "nothing was compared"
        if members := search.final_fits():
            fitted = self._joined([fit for fit in members if self.store.has_model(fit.key)], choice)
            if fitted:
                return fitted
            choice.averages = False
        configuration = search.candidates[choice.name].configuration
        fitted = self._fit(configuration, self.how.members if choice.averages else 1)
        if fitted.failed and configuration.picks:
            choice.why = f"{choice.name} was chosen, but its final fit failed ({fitted.failed})"
            choice.name = Configuration().name
            fitted = self._fit(Configuration(), 1)
        if fitted.failed or fitted.model is None:
            raise DivergedError(fitted.failed)
        fitted.model.tta = choice.tta
        return fitted

    def _fit(self, configuration: Configuration, members: int) -> Fitted:
        """Return a fit on all support scans for the rest of the time; a signal ends it early, and its model is written."""
        guess = self.cost.step * self._relative(configuration)
        fit = Fit(
            "final",
            configuration,
            self.job.support,
            seed=self.settings.seed,
            seconds=self.budget.left,
            members=members,
            after=self.reserve,
            guess=guess,
        )
        ready = None if configuration.picks else self.job.episode
        told = [self.budget.spent]

        def on_step(step: int, loss: float) -> None:
            if self.budget.spent > told[0] + 1.0:
                told[0] = self.budget.spent
                self.news(f"final fit, step {step + 1}, loss {loss:.3f}")

        with unstopped():
            fitted = run_fit(self.ground, fit, self.now, is_asked_to_stop, ready, on_step)
            if is_asked_to_stop() and not fitted.failed:
                assert fitted.model
                fitted.model.tta = self.choice.tta
                self._finish(fitted, self.choice, stopped=True)
                self.is_kept = True
        return fitted

    is_kept = False  #: whether a stopped search has written its model

    def _relative(self, configuration: Configuration) -> float:
        return self.search.candidates[configuration.name].seconds

    def _joined(self, members: list[Fit], choice: Choice) -> Fitted | None:
        """Return the average of final fits that workers made; None without any."""
        runtime = self.job.runtime
        found = [(self.store.get(fit.key), self._load(fit.key)) for fit in members]
        if not found:
            return None
        nets = [model.net for _, model in found if isinstance(model.net, SegmentationNet)]
        model = found[0][1]
        if len(nets) > 1:
            model.net = Ensemble(nets).to(runtime.device).eval()
        model.tta = choice.tta
        done = [fitted for fitted, _ in found if fitted]
        return self._described(members[0], done[0].report or LearnerReport(), model, tuple(s for f in done for s in f.steps))

    def _load(self, key: str) -> Model:
        runtime = self.job.runtime
        precision = "bfloat16" if runtime.bfloat16 else "float32"
        return Model.load(self.store.model_folder(key), str(runtime.device), precision)

    def _described(self, fit: Fit, report: LearnerReport, model: Model, steps: tuple[int, ...]) -> Fitted:
        """Return a model of the store with the episode, learner and plan that made it."""
        g = self.ground
        run, learner, plan = fit.configuration.apply(g.run, g.learner, g.plan)
        episode = make_episode(g.data, g.task, fit.train, (), plan, run.settings.space.levels)
        learner = learner.model_copy(update={"steps": report.steps})
        return Fitted(fit.key, steps=steps, model=model, report=report, episode=episode, learner=learner, plan=plan)

    # ---- the end

    def _keep_best(self) -> None:
        """Write the best model so far of a stopped search, if there is one, and say so in ``adaptation.json``."""
        with unstopped():
            search = self.search
            if self.is_kept:
                return
            if not search.rounds or not (key := search.best_key()):
                self._drop_empty()
                return
            fit = next(fit for r in search.rounds for fit in search.fits(r) if fit.key == key)
            fitted = self.store.get(key)
            report = (fitted.report if fitted else None) or LearnerReport()
            choice = search.results.choose()
            choice.name = fit.configuration.name
            choice.why = f"the search was stopped: this is the best model so far, of {len(fit.train)} of the support scans"
            choice.averages, choice.tta = fit.members > 1, False
            self._finish(self._described(fit, report, self._load(key), ()), choice, stopped=True)

    def _finish(self, fitted: Fitted, choice: Choice, stopped: bool = False) -> dict[str, Any]:
        """Return the note after writing the model of ``fitted``; a stopped search scores nothing."""
        assert fitted.model and fitted.report and fitted.episode and fitted.learner and fitted.plan
        chosen = self.search.candidates[choice.name].configuration
        own = self.job.settings.model_copy(update={"configuration": chosen})
        job = replace(self.job, settings=own, episode=fitted.episode, learner=fitted.learner, plan=fitted.plan)
        job = replace(job, scored=()) if stopped else job
        expected = self.search.results.expected(choice, len(job.support))
        about = search_note(self.search, choice, expected, self.ids)
        about |= {
            "minutes": self.minutes,
            "stopped": stopped,
            "measured": self.cost.to_json(),
            "reserve": self.reserve,
            "workers": self.search.layout.workers,
            "final": {"steps": list(fitted.steps), "members": len(fitted.steps)},
            "only_default": self.portfolio.why_alone or self.search.layout.why_not,
        }
        return finish_adaptation(
            job,
            self.out,
            fitted.model,
            fitted.report,
            self.before,
            {"minutes": about},
            replaces=self._may_replace(),
            complete=lambda note: self._complete(note, expected),
            paused=self.budget.paused,
        )

    def _complete(self, note: dict[str, Any], expected: Any) -> None:
        """Add what is known at the end: the time spent, and whether held-back scans agree with the estimate."""
        about = note["minutes"]
        about["seconds"] = {"budget": self.budget.seconds, "spent": self.budget.spent}
        if note["dice_after"] is not None:
            inside = expected.holds(note["dice_after"]) if expected.low is not None else None
            about["held_back"] = {"dice": note["dice_after"], "num_scans": len(note["scored"]), "inside": inside}

    def _may_replace(self) -> bool:
        """Return whether the folder's model is one that a stopped search has left."""
        try:
            return bool(json.loads((self.out / "adaptation.json").read_text())["minutes"]["stopped"])
        except (OSError, ValueError, LookupError, TypeError):
            return False
