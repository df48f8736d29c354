"""How each method is fitted to a support: our networks, MONAI's and nnU-Net behind one face, with what it cost."""

from __future__ import annotations

import json
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...data.cached import CachedDataset
from ...data.settings import PlanSettings
from ...engine.adapt import adapt_episode
from ...engine.meta_run import MetaRun
from ...engine.predict import predict_labels
from ...engine.run_task import run_task
from ...learner import LearnerReport, LearnerSettings, Runtime, choose_runtime, switch_step
from ...space import cost
from ...tasks.episode import Episode, make_episode, query_scan
from ...tasks.organ import OrganTask
from .cells import Cell
from .label_free import learn_first
from .methods import Method, method_named
from .nnunet import fit_nnunet
from .peers import PeerNet, peer_cost
from .pretrain import finished, fixed_space, fresh_run
from .settings import BenchmarkGroup, BenchmarkSettings

#: steps of the trial that tells what a step takes
_TRIAL = 8
#: GPUs that this process has used
_WARM: set[str] = set()


@dataclass(frozen=True)
class Fitted:
    """A fitted method: organ map (X, Y, Z) of a named case, and what it took. Counts that are not known are None."""

    segment: Callable[[str], np.ndarray]
    seconds: float
    steps: int
    gradient_evaluations: int
    checkpoint: str
    parameters: int | None = None
    multiply_adds: int | None = None
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a cell asks for, looked up."""

    settings: BenchmarkSettings
    cell: Cell
    group: BenchmarkGroup
    dataset: CachedDataset
    task: OrganTask
    support: Sequence[str]
    query: Sequence[str]
    held_back: Sequence[str] = ()  #: query cases of the cells that are scored on most: nothing may be learned from them

    @property
    def method(self) -> Method:
        return method_named(self.cell.method)

    @property
    def plan(self) -> PlanSettings:
        return self.settings.plan.model_copy(update=dict(self.method.plan))

    @property
    def runtime(self) -> Runtime:
        return choose_runtime(self.settings.run.device, self.settings.run.precision)

    @property
    def budget(self) -> float:
        """Return the seconds that the method may take; 0 where its steps are given."""
        if not self.cell.reference:
            return 60.0 * self.method.minutes
        path = Path(self.settings.out) / "cells" / self.cell.reference.file
        return self.cell.times * float(json.loads(path.read_text())["rows"][0]["seconds"])


def start_of(job: Job) -> MetaRun:
    """Return the state that a cell starts from; every draw of fresh weights has a seed of its own."""
    s, cell = job.settings, job.cell
    if cell.pretraining:
        return finished(s, cell.pretraining)
    space = fixed_space(s, cell.group) if job.method.fixed else s.run.space
    return fresh_run(s.run, space, job.group.hold_out, s.run.seed + 1000 + 100 * cell.seed + cell.draw)


def fit(job: Job, start: MetaRun) -> Fitted:
    """Return the cell's method fitted to its support from ``start``."""
    if job.method.network == "nnunet":
        return _fit_nnunet(job)
    episode = make_episode(job.dataset, job.task, job.support, [], job.plan, start.settings.space.levels)
    learner = job.settings.run.adapt.model_copy(update={"steps": job.cell.steps, **job.method.learner})
    _warm_up(job, start, episode, learner)
    if job.budget:
        learner = learner.model_copy(update={"steps": _steps_within(job, start, episode, learner)})
    first: dict[str, Any] = {}
    if job.method.unlabelled:
        start, first = learn_first(job, start)
    begun = time.perf_counter()
    net, report = _adapt(job, start, episode, learner)
    # what a search measures of itself on the way serves the report alone
    seconds = time.perf_counter() - begun - report.check_seconds + first.get("seconds", 0.0)
    view, strides = episode.plan.view, episode.plan.strides
    counted = peer_cost(net, episode.num_channels, view) if isinstance(net, PeerNet) else cost(net.body, view, strides)

    network: Any = net  # MONAI's has the same face

    def segment(name: str) -> np.ndarray:
        scan = query_scan(job.dataset, job.task, name, episode.plan)
        return predict_labels(network, scan.image, episode.plan, scan.truth.shape, job.runtime)

    evaluations = report.gradient_evaluations + first.get("steps", 0)  # a label-free step is one, of weights or of alphas
    note = report.to_json() | ({"unlabelled": first} if first else {})
    return Fitted(segment, seconds, learner.steps, evaluations, start.sha256[:16], **counted, report=note)


def _warm_up(job: Job, start: MetaRun, episode: Episode, learner: LearnerSettings) -> None:
    """Take two steps on a device that this process has not used yet: loading libraries, a GPU's or transforms, is no method's time."""
    device = str(job.runtime.device)
    if device not in _WARM:
        _adapt(job, start, episode, learner.model_copy(update={"steps": 2}))
        _WARM.add(device)


def _adapt(
    job: Job, start: MetaRun, episode: Episode, learner: LearnerSettings, on_step: Callable[[int, float], None] | None = None
) -> tuple[Any, LearnerReport]:
    """Return the adapted network and what was done; one seed for all methods of a cell's draw, though those that search or draw an
    architecture, or solve no head, draw other patches with it."""
    seed = 10 * job.cell.draw + job.cell.seed
    if not job.method.network:
        model, report, _ = adapt_episode(start, episode, learner, job.plan, seed, job.runtime, on_step)
        return model.net, report
    net: Any = PeerNet(job.method.network, start.settings.seed)
    net.start_task(episode.num_channels, episode.task.num_organs)
    adapted, _ = run_task(
        net.to(job.runtime.device), episode, learner, job.plan, np.random.default_rng([seed, 11]), job.runtime, on_step
    )
    return adapted.net.eval(), adapted.report


def _steps_within(job: Job, start: MetaRun, episode: Episode, learner: LearnerSettings) -> int:
    """Return how many steps fit into the budget, by a short trial: a schedule of rates needs their number beforehand."""

    def switch(steps: int) -> int:
        return switch_step(learner.model_copy(update={"steps": steps})) if job.method.search else 0

    marks: list[float] = []
    trial = learner.model_copy(update={"steps": _TRIAL})
    begun = time.perf_counter()
    _adapt(job, start, episode, trial, lambda step, loss: marks.append(time.perf_counter()))
    return steps_within(job.budget, begun, marks, switch)


def steps_within(budget: float, begun: float, marks: Sequence[float], switch: Callable[[int], int]) -> int:
    """Return how many steps fit into ``budget`` seconds, by a trial that ``begun`` and whose steps ended at ``marks``; one at least.

    ``switch(steps)``: after how many of them a search goes on with the discrete network, whose steps are cheaper; either phase is timed
    by itself. Medians: a step that a stall made long does not count, nor does the first one, which also warms up, or that of the switch.
    """
    gaps, at = np.diff(marks), switch(len(marks))
    any_step = float(np.median(gaps))
    soft = float(np.median(gaps[: at - 1])) if at > 1 else any_step
    discrete = float(np.median(gaps[at:])) if at < len(gaps) else any_step
    left = budget - max(marks[0] - begun - (soft if at else discrete), 0.0)

    def seconds(steps: int) -> float:
        return switch(steps) * soft + (steps - switch(steps)) * discrete

    most = max(1, int(left / min(soft, discrete)))
    return max(1, bisect_right(range(1, most + 1), left, key=seconds))


def _fit_nnunet(job: Job) -> Fitted:
    with tempfile.TemporaryDirectory(prefix="metanas_med_nnunet_") as folder:
        device = job.runtime.device.type
        found = fit_nnunet(job.dataset, job.task, job.support, job.query, job.budget, Path(folder), device)
    return Fitted(found.labels.__getitem__, found.seconds, found.iterations, found.iterations, "nnU-Net")
