"""How each method is fitted to a support: our networks, MONAI's and nnU-Net behind one interface, with what it cost."""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...engine.adapt import adapt_episode
from ...engine.meta_run import MetaRun
from ...engine.predict import predict_labels
from ...engine.solve import Solver
from ...learner import LearnerReport, LearnerSettings
from ...space import cost
from ...tasks.episode import Episode, make_episode, query_scan
from .job import Job
from .label_free import learn_first
from .nnunet import fit_nnunet
from .peers import PeerNet, peer_cost
from .pretrain import finished, fixed_space, fresh_run

#: steps of the trial that measures the time of a step
_TRIAL = 8


@dataclass(frozen=True)
class Fitted:
    """A fitted method: organ map (X, Y, Z) of a named case, and what the fit cost. Counts that are not known are None."""

    segment: Callable[[str], np.ndarray]
    seconds: float
    steps: int
    gradient_evaluations: int
    checkpoint: str
    parameters: int | None = None
    multiply_adds: int | None = None
    report: dict[str, Any] = field(default_factory=dict)


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
    # loading libraries, a GPU's or those of transforms, must not count as the time of the first method
    warm_up_once(job.runtime.device, lambda: _adapt(job, start, episode, learner.model_copy(update={"steps": 2})))
    if job.budget:
        learner = learner.model_copy(update={"steps": _steps_within(job, start, episode, learner)})
    first: dict[str, Any] = {}
    if job.method.unlabelled:
        start, first = learn_first(job, start)
    begin = time.perf_counter()
    net, report = _adapt(job, start, episode, learner)
    # checks within a search serve the report alone, so their time does not count
    seconds = time.perf_counter() - begin - report.check_seconds + first.get("seconds", 0.0)
    view, strides = episode.plan.view, episode.plan.strides
    counted = peer_cost(net, episode.num_channels, view) if isinstance(net, PeerNet) else cost(net.body, view, strides)

    network: Any = net  # a network of MONAI has the same interface

    def segment(name: str) -> np.ndarray:
        scan = query_scan(job.dataset, job.task, name, episode.plan)
        return predict_labels(network, scan.image, episode.plan, scan.truth.shape, job.runtime)

    evaluations = report.gradient_evaluations + first.get("steps", 0)  # a label-free step is one, of weights or of alphas
    note = report.to_json() | ({"unlabelled": first} if first else {})
    return Fitted(segment, seconds, learner.steps, evaluations, start.sha256[:16], **counted, report=note)


def warm_up_once(device: torch.device, warm_up: Callable[[], object]) -> None:
    """Call ``warm_up`` if this is the first call with ``device`` in this process."""
    if str(device) not in _WARM:
        warm_up()
        _WARM.add(str(device))


#: devices that this process has warmed up
_WARM: set[str] = set()


def _adapt(
    job: Job, start: MetaRun, episode: Episode, learner: LearnerSettings, on_step: Callable[[int, float], None] | None = None
) -> tuple[Any, LearnerReport]:
    """Return the adapted network and its report. All methods of a cell's draw have the same seed.

    Methods that search, draw an architecture or solve no head use the seed's numbers differently, so their patches differ.
    """
    seed = 10 * job.cell.draw + job.cell.seed
    if not job.method.network:
        model, report, _ = adapt_episode(start, episode, learner, job.plan, seed, job.runtime, on_step)
        return model.net, report
    net: Any = PeerNet(job.method.network, start.settings.seed)
    net.start_task(episode.num_channels, episode.task.num_organs)
    solve = Solver(start.settings.space, seed, learner, job.plan, job.runtime)
    adapted, _ = solve.run(net.to(job.runtime.device), episode, np.random.default_rng([seed, 11]), on_step)
    return adapted.net.eval(), adapted.report


def _steps_within(job: Job, start: MetaRun, episode: Episode, learner: LearnerSettings) -> int:
    """Return how many steps fit into the budget, measured by a short trial: a schedule of rates needs their number in advance."""

    def switch(steps: int) -> int:
        return learner.search_steps(steps) if job.method.search else 0

    marks: list[float] = []
    trial = learner.model_copy(update={"steps": _TRIAL})
    begin = time.perf_counter()
    _adapt(job, start, episode, trial, lambda step, loss: marks.append(time.perf_counter()))
    return steps_within(job.budget, begin, marks, switch)


def steps_within(budget: float, begin: float, marks: Sequence[float], switch: Callable[[int], int]) -> int:
    """Return how many steps, at least one, fit into ``budget`` seconds.

    A trial started at ``begin`` and its steps ended at ``marks``. ``switch(steps)`` is the step at which a search continues
    with the discrete network, whose steps are cheaper; each phase is timed separately, by medians. The first step, which also
    warms up, the step of the switch and a step that stalled do not count.
    """
    gaps, at = np.diff(marks), switch(len(marks))
    any_step = float(np.median(gaps))
    soft = float(np.median(gaps[: at - 1])) if at > 1 else any_step
    discrete = float(np.median(gaps[at:])) if at < len(gaps) else any_step
    left = budget - max(marks[0] - begin - (soft if at else discrete), 0.0)

    def seconds(steps: int) -> float:
        return switch(steps) * soft + (steps - switch(steps)) * discrete

    most = max(1, int(left / min(soft, discrete)))
    return max(1, bisect_right(range(1, most + 1), left, key=seconds))


def _fit_nnunet(job: Job) -> Fitted:
    with tempfile.TemporaryDirectory(prefix="metanas_med_nnunet_") as folder:
        device = job.runtime.device.type
        found = fit_nnunet(job.dataset, job.task, job.support, job.query, job.budget, Path(folder), device)
    return Fitted(found.labels.__getitem__, found.seconds, found.iterations, found.iterations, "nnU-Net")
