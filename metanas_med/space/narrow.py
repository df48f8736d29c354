"""Parts of a network as networks: leading channels, first levels, first blocks. One supernet then serves every size.

A narrower network has tensors of the same names, each the leading part of the wider one's tensor along every axis (Yu et al. 2019,
"Slimmable neural networks", arXiv 1812.08928; Cai et al. 2020, "Once-for-all", arXiv 1908.09791). Only the head's rows differ: they
hold the features of all levels side by side, so each level's leading channels are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Picks, Row, SearchSpace, draw_picks
from .network import NUM_POSITION, SegmentationNet
from .sketch import complete_picks

#: names of tensors whose last axis is the head's features
_ROWS = ("head.background", "head.organ", "task.rows")


def leading(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the leading part of ``value`` that has ``shape``, a view; ``value`` itself if it has that shape.

    Raises ConfigError if ``value`` is smaller along an axis, or has another number of axes.
    """
    if tuple(value.shape) == tuple(shape):
        return value
    if value.ndim != len(shape) or any(size < part for size, part in zip(value.shape, shape, strict=True)):
        raise ConfigError(f"a tensor of shape {list(value.shape)} has no part of shape {list(shape)}: the network is too small")
    return value[tuple(slice(0, part) for part in shape)]


def head_columns(whole: Sequence[int], part: Sequence[int]) -> Tensor:
    """Return the head's features (F',) that a network of widths ``part`` has, as positions among those of ``whole`` (finest first)."""
    if len(part) > len(whole) or any(own > there for own, there in zip(part, whole, strict=False)):
        raise ConfigError(f"a network of widths {list(whole)} has no part of widths {list(part)}")
    starts = [sum(whole[:level]) for level in range(len(part))]
    columns = [torch.arange(start, start + own) for start, own in zip(starts, part, strict=True)]
    return torch.cat([*columns, torch.arange(sum(whole), sum(whole) + NUM_POSITION)])


def take_part(
    values: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], whole: Sequence[int], part: Sequence[int]
) -> dict[str, Tensor]:
    """Return the tensors of ``shapes`` by name, each a part of the tensor of that name; differentiable.

    ``whole`` and ``part``: the widths of the levels of both networks. Raises ConfigError if a tensor is missing or too small.
    """
    found = {}
    for name, shape in shapes.items():
        if name not in values:
            raise ConfigError(f"the network has no {name}: it lacks a level, a block or a part that was chosen")
        value = values[name]
        if name in _ROWS:
            if tuple(whole) != tuple(part):
                value = value.index_select(-1, head_columns(whole, part).to(value.device))
            found[name] = value
        elif name.startswith("body.alphas."):
            found[name] = value
        else:
            found[name] = leading(value, shape)
    return found


def put_part(
    values: Mapping[str, Tensor], part: Mapping[str, Tensor], whole: Sequence[int], own: Sequence[int]
) -> dict[str, Tensor]:
    """Return copies of ``values`` in which the parts ``part`` (tensors of a network of widths ``own``) have replaced their old values."""
    found = {name: value.clone() for name, value in values.items()}
    for name, value in part.items():
        if name in _ROWS:
            found[name][..., head_columns(whole, own).to(value.device)] = value
        else:
            leading(found[name], value.shape).copy_(value)
    return found


def narrowed(net: SegmentationNet, picks: Picks) -> SegmentationNet:
    """Return the network of ``picks`` (an option of every row) whose tensors are parts of those of ``net``, the supernet.

    They are views in the graph of ``net``: a gradient of the result's loss reaches the parameters of ``net``, zero outside the part.
    Cost: a few hundred microseconds; no weight is copied, except the head's rows.
    """
    with torch.device("meta"):  # a new one: the tensors of a cached sketch must not be replaced
        found = SegmentationNet(net.body.space.build(complete_picks(net.body.space, picks)))
    body = found.body
    body.relax(net.body.relaxed)
    del found.task
    own: dict[str, Tensor] = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    shapes = {name: value.shape for name, value in {**dict(found.named_parameters()), **dict(found.named_buffers())}.items()}
    parts = take_part(own, shapes, net.head.widths, body.widths)
    for name, value in parts.items():
        _set(found, name, value)
    rows = {"channels": leading(net.task["channels"], (body.in_width, net.task["channels"].shape[1]))}
    rows["rows"] = take_part({"task.rows": net.task["rows"]}, {"task.rows": ()}, net.head.widths, body.widths)["task.rows"]
    object.__setattr__(found, "task", rows)
    return found.train(net.training)


def sampled_rows(space: SearchSpace) -> dict[str, Row]:
    """Return the rows of a space that are sampled: those of sizes, whose networks are parts of the supernet."""
    return {name: row for name, row in space.rows().items() if row.type == "sampled"}


def sandwich(space: SearchSpace, generator: np.random.Generator) -> list[dict[str, int]]:
    """Return the picks of the largest, the smallest and a random network (sandwich rule: Yu and Huang 2019, arXiv 1903.05134).

    Options of sampled rows are in the order of size, the largest first; those of other kinds (activations, places of cells) are left
    out by the space's ``sizes``, and the smallest network has the first of them. In the random network sampled rows are drawn
    uniformly, by the space itself where it draws rows together; a relaxed row has its first option with probability 3/4.
    """
    rows = space.rows()
    sampled = sampled_rows(space)
    own = getattr(space, "sizes", None)
    sizes = sampled if own is None else own()
    smallest = {name: len(row.options) - 1 if name in sizes else 0 for name, row in rows.items()}
    drawn = {}
    for name, row in rows.items():
        count = len(row.options)
        first = 1 / count if name in sampled else 0.75
        p = [first, *([(1 - first) / (count - 1)] * (count - 1))]
        drawn[name] = int(generator.choice(count, p=p))
    if hasattr(space, "draw"):
        together = draw_picks(space, torch.Generator().manual_seed(int(generator.integers(2**31))))
        drawn = {name: together[name] if name in sampled else option for name, option in drawn.items()}
    return [dict.fromkeys(rows, 0), smallest, drawn]


def draw_sandwich(net: SegmentationNet, generator: np.random.Generator) -> list[SegmentationNet]:
    """Return the networks of ``sandwich`` as parts of the supernet ``net``, the largest first."""
    return [narrowed(net, picks) for picks in sandwich(net.body.space, generator)]


def _set(net: nn.Module, name: str, value: Tensor) -> None:
    """Put ``value`` in the place of the parameter or buffer ``name``."""
    place, _, last = name.rpartition(".")
    module = net.get_submodule(place)
    module._parameters.pop(last, None)
    module._buffers.pop(last, None)
    object.__setattr__(module, last, value)
