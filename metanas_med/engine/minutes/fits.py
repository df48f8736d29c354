"""One fit of a search: training for a number of seconds, and the Dice on scans that were left out."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from monai.inferers.utils import sliding_window_inference as _ready  # noqa: F401  # imported here: it would take time of a budget

from ...data import augment as _augment  # noqa: F401  # for the same reason
from ...data.cached import CachedDataset
from ...data.plan import Plan
from ...data.settings import PlanSettings
from ...errors import ConfigError, DataError, DivergedError
from ...learner import LearnerReport, LearnerSettings, Runtime
from ...learner.base import StepHook
from ...space.ensemble import Ensemble
from ...space.network import SegmentationNet
from ...tasks.episode import Episode, make_episode
from ...tasks.organ import OrganTask
from ..adapt import adapt_episode, score
from ..configuration import Configuration
from ..memory import build_real, check_adaptation
from ..meta_run import MetaRun
from ..model import Model
from ..predict import LOOKS, STRETCH
from .budget import Cost, Now, Pacer
from .views import Copies, copied_episode, score_copies

#: why a fit was not begun
LATE = "no time was left"
#: a forward pass takes this share of a training step on the same views
_FORWARD = 1 / 3
#: views of a scan that the head and the check of the support look at
_VIEWS = 3
#: seconds to bring scores back to a scan's grid, a voxel and class
_RESAMPLE = 1e-8


@dataclass(frozen=True)
class Ground:
    """What all fits of a search share. It can be sent to other processes."""

    run: MetaRun
    data: CachedDataset  #: of the support alone (guard.py)
    task: OrganTask
    learner: LearnerSettings
    plan: PlanSettings
    runtime: Runtime

    def __getstate__(self) -> dict[str, Any]:
        # as bytes: torch would send each of hundreds of tensors through a file descriptor of its own. They go to a worker of
        # this process and are never written to a file
        return {**self.__dict__, "run": pickle.dumps(self.run)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, run=pickle.loads(state["run"]))


@dataclass(frozen=True)
class Fit:
    """One fit: which configuration, on which scans, for how long."""

    key: str  #: names the files of its result
    configuration: Configuration
    train: tuple[str, ...]  #: case names
    left: tuple[str, ...] = ()  #: case names to score
    seed: int = 0
    seconds: float = math.inf  #: from its start to its end
    members: int = 1  #: networks that share the seconds and are averaged
    tta: bool = False  #: also score with test-time augmentation
    copies: Copies | None = None  #: train and score on transformed copies of the scans instead of ``left``
    threads: int = 0  #: of torch; 0: as they are
    guess: float = 1.0  #: expected seconds of a step
    after: float = 0.0  #: seconds to keep at the end for other work
    predict: float = 1.0  #: measured / forecast seconds of predictions so far
    latest: float = math.inf  #: on the clock: a fit that would start later is left out, because it could not end in time


@dataclass
class Fitted:
    """What a fit gave. ``scores`` and ``tta_scores``: Dice by case and organ."""

    key: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    tta_scores: dict[str, dict[str, float]] | None = None
    steps: tuple[int, ...] = ()  #: of each member
    seconds: float = 0.0
    cost: Cost | None = None
    forecast: float = 0.0  #: expected seconds of the prediction of one scan, without a correction
    failed: str = ""  #: why there is no result
    model: Model | None = None
    report: LearnerReport | None = None
    episode: Episode | None = None
    learner: LearnerSettings | None = None
    plan: PlanSettings | None = None

    @property
    def mean(self) -> float:
        """Mean Dice over cases and organs; nan without any."""
        values = [v for by_organ in self.scores.values() for v in by_organ.values()]
        return sum(values) / len(values) if values else math.nan


def measure(ground: Ground, episode: Episode, seed: int, steps: int = 2, now: Now = time.monotonic) -> Cost:
    """Return what a fit of the default costs, from a discarded run of ``steps`` steps; the cost of the plan is 0, unknown here."""
    ticks: list[float] = []
    start = now()
    trial = ground.learner.model_copy(update={"steps": steps})
    adapt_episode(ground.run, episode, trial, ground.plan, seed, ground.runtime, lambda step, loss: ticks.append(now()))
    step = (ticks[-1] - ticks[0]) / max(len(ticks) - 1, 1)
    # the first run of a process is slow: kernels are chosen, libraries are read. Views take as long as those of steps
    warm = _VIEWS * len(episode.support) / ground.learner.batch * _FORWARD * step
    head = min(max(ticks[0] - start - step, 0.0), 2 * warm)
    longest = max(predict_seconds(ground, name, episode.plan, step) for name in (v.name for v in episode.support))
    return Cost(0.0, head, step, longest)


def predict_seconds(ground: Ground, name: str, plan: Plan, step: float, tta: bool = False, batch: int | None = None) -> float:
    """Return about how long the prediction of a whole scan takes, from the seconds of a training ``step``."""
    case = next(c for c in ground.data.cases if c.name == name)
    shape, num = plan.shape(case.shape, case.spacing), 1
    window = [n if n <= STRETCH * v else v for n, v in zip(shape, plan.view, strict=True)]
    for size, edge in zip(shape, window, strict=True):
        num *= math.ceil((size - edge) / max(edge // 2, 1)) + 1
    batch = batch or ground.learner.batch
    one = 1.5 * num * math.prod(window) / (batch * math.prod(plan.view)) * step * _FORWARD
    looks = 1 + len(LOOKS) if tta else 1
    return looks * one + _RESAMPLE * math.prod(case.shape) * (ground.task.num_organs + 1)


def configured(ground: Ground, configuration: Configuration) -> tuple[MetaRun, LearnerSettings, PlanSettings]:
    """Return start, learner and plan of a configuration. Raises ConfigError where the start cannot take it."""
    run, learner, plan = configuration.apply(ground.run, ground.learner, ground.plan)
    return run, learner.decided(build_real(run).body)[0], plan


def run_fit(
    ground: Ground,
    fit: Fit,
    now: Now = time.monotonic,
    stopped: Callable[[], bool] | None = None,
    ready: Episode | None = None,
    on_step: StepHook | None = None,
) -> Fitted:
    """Return the result of ``fit``, which ends in about ``fit.seconds``; one that cannot train says why in ``failed``.

    ``stopped`` says whether the training shall end soon. ``ready`` is the episode of all scans of the fit under its own plan, if it
    is known. ``on_step`` is called after each step.
    """
    start = now()
    if start > fit.latest:
        return Fitted(fit.key, failed=LATE)
    if fit.threads:
        torch.set_num_threads(fit.threads)
    try:
        run, learner, plan = configured(ground, fit.configuration)
        episode = ready or make_episode(ground.data, ground.task, fit.train, (), plan, run.settings.space.levels)
        planned = now() - start
        if fit.configuration.picks:
            check_adaptation(run, episode, learner, ground.runtime)
        return _fitted(replace(ground, run=run, learner=learner, plan=plan), fit, episode, start, planned, now, stopped, on_step)
    except (DivergedError, ConfigError, DataError) as error:
        return Fitted(fit.key, failed=" ".join(str(error).split()), seconds=now() - start)


def _fitted(
    ground: Ground,
    fit: Fit,
    plain: Episode,
    start: float,
    planned: float,
    now: Now,
    stopped: Callable[[], bool] | None,
    on_step: StepHook | None,
) -> Fitted:
    """Return the result of ``fit`` with the run, learner and plan of its configuration, which ``ground`` holds.

    ``planned``: seconds that the ``plain`` episode took.
    """
    end, batch = start + fit.seconds, ground.learner.batch
    episode = copied_episode(plain, fit.copies.train) if fit.copies else plain
    seen = fit.train * len(fit.copies.left) if fit.copies else fit.left

    def after(step: float) -> float:
        """Return the seconds that follow the last step: planning and prediction of the scans that are scored."""
        one = sum(predict_seconds(ground, name, plain.plan, step, False, batch) for name in seen)
        looks = sum(predict_seconds(ground, name, plain.plan, step, True, batch) for name in seen) if fit.tta else 0.0
        reading = planned * len(fit.left) / len(fit.train)
        return fit.predict * (one + looks) + reading + fit.after

    nets: list[SegmentationNet] = []
    reports: list[LearnerReport] = []
    step, head, model = fit.guess, 0.0, None
    for number in range(fit.members):
        begun = now()
        left = end - begun - after(step)
        pacer = Pacer(begun + left / (fit.members - number), lambda step: 0.0, step, now)
        if number == fit.members - 1:
            pacer = Pacer(end, after, step, now)
        pacer.stopped, pacer.more = stopped or pacer.stopped, on_step
        steps = max(1, math.floor((left / (fit.members - number) - head) / max(step, 1e-9)))
        learner = ground.learner.model_copy(update={"steps": steps})
        model, report, _ = adapt_episode(
            ground.run, episode, learner, ground.plan, fit.seed + 1000 * number, ground.runtime, pacer.on_step, pacer
        )
        step, head = pacer.step_seconds, pacer.head_seconds(begun)
        assert isinstance(model.net, SegmentationNet)
        nets.append(model.net)
        reports.append(report)
    assert model is not None
    if len(nets) > 1:
        model.net = Ensemble(nets).eval()
    trained = now()
    scores = _scores(model, ground, fit, plain, False)
    predicted = (now() - trained) / max(len(seen), 1)
    looks = _scores(model, ground, fit, plain, True) if fit.tta else None
    cost = Cost(planned, head, step, predicted)
    forecast = sum(predict_seconds(ground, name, plain.plan, step, False, batch) for name in seen) / max(len(seen), 1)
    report = reports[0]
    report.seconds = sum(each.seconds for each in reports)
    learner = ground.learner.model_copy(update={"steps": report.steps})
    counts = tuple(each.steps for each in reports)
    return Fitted(fit.key, scores, looks, counts, now() - start, cost, forecast, "", model, report, episode, learner, ground.plan)


def _scores(model: Model, ground: Ground, fit: Fit, plain: Episode, tta: bool) -> dict[str, dict[str, float]]:
    """Return Dice by case and organ of what ``fit`` left out."""
    if fit.copies:
        return score_copies(model, plain, fit.copies.left, tta)
    return score(model, ground.data, fit.left, tta)
