"""The meta state of a network: built, read and set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..meta import MetaState
from ..space import get_space
from ..space.narrow import take_part
from ..space.network import SegmentationNet
from ..space.settings import SpaceSettings
from .checkpoint import buffers_of


def build_network(space: SpaceSettings, seed: int) -> SegmentationNet:
    """Return a newly initialised network of ``space``; its weights depend on ``seed`` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentationNet(get_space(space).build(None))


def meta_state(net: SegmentationNet) -> MetaState:
    """Return copies of the meta-learned tensors of ``net``."""
    return MetaState(
        {n: p.detach().clone() for n, p in net.weights().items()}, {n: p.detach().clone() for n, p in net.alphas().items()}
    )


def part_of_state(
    space: SpaceSettings, state: MetaState, buffers: Mapping[str, Tensor], sizes: Mapping[str, str]
) -> tuple[SpaceSettings, MetaState, dict[str, Tensor]]:
    """Return settings, state and buffers of the smaller supernet that options ``sizes`` of sampled rows leave (space/narrow.py)."""
    settings = get_space(space).part(sizes)  # type: ignore[attr-defined]  # every space with sampled rows has it
    net = build_network(settings, 0)
    weights, alphas, kept = (
        _taken(values, {name: value.shape for name, value in own.items()}, space.widths, settings.widths)
        for values, own in ((state.weights, net.weights()), (state.alphas, net.alphas()), (buffers, buffers_of(net)))
    )
    return settings, MetaState(weights, alphas), kept


def _taken(
    values: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], whole: Sequence[int], part: Sequence[int]
) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in take_part(values, shapes, whole, part).items()}


def load_meta_state(net: SegmentationNet, state: MetaState, buffers: Mapping[str, Tensor] | None = None) -> None:
    """Copy ``state`` (and calibrated ``buffers``) into ``net`` in place; CheckpointError if it belongs to another network."""
    own: dict[str, Any] = {**net.weights(), **net.alphas()}
    given = {**state.weights, **state.alphas}
    # copy_ would silently broadcast a 2D kernel to a 3D one
    sizes, found = ({name: tuple(value.shape) for name, value in tensors.items()} for tensors in (own, given))
    if sizes != found:
        name = min(name for name in sizes.keys() | found.keys() if sizes.get(name) != found.get(name))
        raise CheckpointError(
            f"the meta-state belongs to another network: {name} has shape {found.get(name)}, expected {sizes.get(name)}. "
            "A state fits only the space it was trained in (space.dims 2 or 3, widths, levels, candidates); "
            "build the network from its own settings."
        )
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)
        for name, value in (buffers or {}).items():
            net.get_buffer(name).copy_(value)
