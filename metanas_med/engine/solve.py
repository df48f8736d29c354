"""The inner problem, ``solve(state, episode, seed) -> Update``: one task-learner run.

Meta-training, validation and ``adapt`` share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.patches import PatchSampler
from ..data.settings import PlanSettings
from ..learner import Adapted, Context, LearnerSettings, NonFiniteLossError, Runtime, Task, build_learner
from ..learner.base import Pace, QueryGradient, StepHook
from ..meta import MetaState, Update
from ..space.narrow import put_part
from ..space.network import SegmentationNet
from ..space.settings import SpaceSettings
from ..tasks.episode import Episode
from .state import build_network, load_meta_state, meta_state, part_of_state

Seed = Sequence[int]  #: a place in the seed tree of a run, such as (seed, stream, iteration, slot)


def open_task(episode: Episode, plan: PlanSettings, generator: np.random.Generator) -> tuple[Task, PatchSampler]:
    """Return the support of ``episode`` as a learner sees it, and the sampler that feeds it."""
    sampler = PatchSampler(episode.support, episode.plan.view, generator, foreground=plan.foreground, augment=plan.augment)
    task = Task(
        sampler,
        len(episode.support),
        episode.num_channels,
        episode.task.num_organs,
        episode.plan.strides,
        episode.plan.view,
        episode.task.key if episode.lasting else "",
    )
    return task, sampler


@dataclass(frozen=True)
class Solver:
    """The fixed inputs of ``solve``; calling the object is ``solve``. Any launcher can send it to a process.

    Keeps one network between calls, because building one takes 0.02 s at base width 8 and 0.3 s at 24. No result depends on it.
    """

    space: SpaceSettings
    net_seed: int
    learner: LearnerSettings
    plan: PlanSettings
    runtime: Runtime = field(default_factory=Runtime)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  #: calibrated gains
    query_gradient: QueryGradient = ""
    _scratch: list[SegmentationNet] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, state: MetaState, episode: Episode, seed: Seed) -> Update:
        """Return what ``episode`` contributes to an outer step from ``state``: the state that its run reaches, losses and report.

        A non-finite loss gives an update without an end and with the reason in ``bad``. The result depends on the arguments only.
        """
        net = self.network(state)
        try:
            adapted, sampler = self.run(net, episode, np.random.default_rng(list(seed)))
        except NonFiniteLossError as error:
            return Update(None, key=episode.task.key, bad=str(error))
        return Update(
            meta_state(net),  # changed in place; a discrete network alone would lack alphas
            adapted.gradient,
            tuple(adapted.report.losses),
            episode.task.key,
            sampler.waited,
            report=adapted.report.to_json(),
        )

    def run(
        self,
        net: SegmentationNet,
        episode: Episode,
        generator: np.random.Generator,
        on_step: StepHook | None = None,
        pace: Pace | None = None,
    ) -> tuple[Adapted, PatchSampler]:
        """Return ``net`` (with a meta state; changed in place) adapted to the support of ``episode``, and the sampler.

        ``pace`` may move the end of the run. Raises NonFiniteLossError.
        """
        task, sampler = open_task(episode, self.plan, generator)
        context = Context(generator, self.runtime, on_step, self.query_gradient, pace)
        return build_learner(self.learner).run(net, task, context), sampler

    def network(self, state: MetaState) -> SegmentationNet:
        """Return the solver's network with the values of ``state``; the next call changes it."""
        if not self._scratch:
            self._scratch.append(build_network(self.space, self.net_seed).to(self.runtime.device))
        load_meta_state(self._scratch[0], state, self.buffers)
        return self._scratch[0]

    def with_learner(self, learner: LearnerSettings) -> Solver:
        """Return this solver with another task learner."""
        return replace(self, learner=learner)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scratch": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True)
class PartSolver:
    """``solve`` of a part of the supernet: options ``sizes`` of sampled rows. What it reaches is put back into the whole state."""

    whole: Solver
    sizes: Mapping[str, str]

    def __call__(self, state: MetaState, episode: Episode, seed: Seed) -> Update:
        """Return what the smaller network contributes; elements outside it are those of ``state``."""
        settings, part, buffers = part_of_state(self.whole.space, state, self.whole.buffers, self.sizes)
        solve = replace(self.whole, space=settings, buffers=buffers, _scratch=[])
        found = solve(part, episode, seed)
        if found.end is None:
            return found
        widths = self.whole.space.widths, settings.widths
        gradient = found.gradient
        if gradient is not None:
            zeros = {name: torch.zeros_like(value) for name, value in state.weights.items()}
            gradient = put_part(zeros, gradient, *widths)
        end = MetaState(put_part(state.weights, found.end.weights, *widths), {**state.alphas, **found.end.alphas})
        return replace(found, end=end, gradient=gradient)


@dataclass(frozen=True)
class Job:
    """One call of ``solve``, as a launcher takes it."""

    solve: Solver | PartSolver
    state: MetaState
    episode: Episode
    seed: tuple[int, ...]


def run_job(job: Job) -> Update:
    """Return the update of a job."""
    return job.solve(job.state, job.episode, job.seed)
