"""One task-learner run on an episode: shared by meta-training, validation and ``adapt``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import LearnerSettings, PlanSettings
from ..data.patches import PatchSampler
from ..errors import CheckpointError
from ..learner import Adapted, Runtime, Task, build_learner
from ..meta.reptile import MetaState
from ..space import SpaceSettings, get_space
from ..space.network import SegmentationNet
from ..tasks.episode import Episode


def build_network(space: SpaceSettings, seed: int) -> SegmentationNet:
    """Return a freshly initialised network of ``space``; ``seed`` alone decides its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentationNet(get_space(space).build(None))


def meta_state(net: SegmentationNet) -> MetaState:
    """Return copies of the meta-learned tensors of ``net``."""
    return MetaState(
        {n: p.detach().clone() for n, p in net.weights().items()}, {n: p.detach().clone() for n, p in net.alphas().items()}
    )


def load_meta_state(net: SegmentationNet, state: MetaState, buffers: Mapping[str, Tensor] | None = None) -> None:
    """Copy ``state`` (and calibrated ``buffers``) into ``net`` in place; CheckpointError where it is of another network."""
    own: dict[str, Any] = {**net.weights(), **net.alphas()}
    given = {**state.weights, **state.alphas}
    # copying would stretch a kernel of slices over a volume without a word
    sizes, found = ({name: tuple(value.shape) for name, value in tensors.items()} for tensors in (own, given))
    if sizes != found:
        name = min(name for name in sizes.keys() | found.keys() if sizes.get(name) != found.get(name))
        raise CheckpointError(
            f"the meta-state is of another network: {name} has shape {found.get(name)}, expected {sizes.get(name)}. A state serves the "
            "space that it was trained in alone (space.dims 2 or 3, widths, levels, candidates): build the network from its own settings."
        )
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)
        for name, value in (buffers or {}).items():
            net.get_buffer(name).copy_(value)


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


def run_task(
    net: SegmentationNet,
    episode: Episode,
    settings: LearnerSettings,
    plan: PlanSettings,
    generator: np.random.Generator,
    runtime: Runtime,
    on_step: Any = None,
) -> tuple[Adapted, PatchSampler]:
    """Return ``net`` (holding the meta state; changed in place) adapted to the support of ``episode``, and the sampler that fed it."""
    task, sampler = open_task(episode, plan, generator)
    return build_learner(settings).run(net, task, generator, runtime, on_step), sampler
