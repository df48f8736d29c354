"""What a DiNTS network costs in expectation, by formula: multiply-adds, and the memory that the paper's penalty counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Triple
from ..choice import Choice
from .parts import OPERATIONS, kernels_of

if TYPE_CHECKING:
    from .body import DintsBody


def operation_multiply_adds(name: str, width: int, dims: int) -> int:
    """Return the multiply-adds a voxel of an operation."""
    return sum(width * width * math.prod(size) for size in kernels_of(name, dims))


def expected_multiply_adds(body: DintsBody, choice: Choice, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean multiply-adds of one sample of ``shape`` (X, Y, Z) over architectures drawn by ``choice``, with gradients.

    Edges are independent but for the block that must not be empty. This is exact at one-hot alphas.
    """
    sizes = [math.prod(size) for size in body.sizes(shape, strides)[0]]
    volumes = sizes[1:] if body.takes_images else sizes
    total = _ends(body, choice, sizes)
    for block in range(len(body.blocks)):
        for e, weight in body.gates(choice, block).weights().items():
            source, target = body.grid.edges[e]
            price = _edge(body, choice, f"block{block}/edge{e}/op", target, volumes[target])
            if source != target:
                # up: the house's 1x1x1 convolution runs before the interpolation, the paper's after it
                place = volumes[source] if source > target and not body.takes_images else volumes[target]
                price = price + body.settings.grid_widths[source] * body.settings.grid_widths[target] * place
            total = total + (price if weight is None else price * weight)
    return total


def _edge(body: DintsBody, choice: Choice, row: str, target: int, volume: int) -> Tensor:
    width, names = body.settings.grid_widths[target], list(OPERATIONS[body.dims])
    prices = [float(operation_multiply_adds(name, width, body.dims) * volume) for name in names]
    p = choice.rows.get(row)
    device = next(body.parameters()).device
    if p is None:
        return torch.tensor(prices[(body.picks or {})[row]], device=device)
    return p @ torch.tensor(prices, dtype=p.dtype, device=device)


def _ends(body: DintsBody, choice: Choice, sizes: Sequence[int]) -> Tensor:
    """Return the mean cost of what lies before and behind the blocks; ``sizes``: voxels of the image's levels."""
    total = torch.zeros((), device=next(body.parameters()).device)
    first, last = body.gates(choice, 0), body.gates(choice, len(body.blocks) - 1)
    for level in body.reads(first):
        p = first.any_of(e for e, (source, _) in enumerate(body.grid.edges) if source == level)
        total = total + _times(body.ends.start_multiply_adds(level, sizes), p)
    for level, p in body.used(last).items():
        total = total + _times(body.ends.finish_multiply_adds(level, sizes), p)
    return total


def _times(price: int, p: Tensor | None) -> Tensor | float:
    return float(price) if p is None else price * p


def memory_a_voxel(name: str, source: int, target: int, widths: Sequence[int], dims: int) -> float:
    """Return the maps that an edge keeps, in units of its output (He et al. 2021, section 3.4, as MONAI 1.5 counts them).

    Convolution 1 + 2 Ci/Co, pseudo-3D 2 + 2 Ci/Co, up 2 + 2 Ci/Co, down 3 + 2^dims Ci/Co, identity 0.
    """
    share = widths[source] / widths[target]
    resample = {-1: 2 + 2 * share, 0: 0.0, 1: 3 + 2**dims * share}[target - source]
    return resample + (0.0 if name == "skip" else 4.0 if name.startswith("p3d") else 3.0)


def expected_memory(body: DintsBody, choice: Choice, sizes: Sequence[Triple]) -> tuple[Tensor, float]:
    """Return the mean number of values that the edges of a supernet keep for one sample, and that of all edges and uniform operations.

    The first has gradients of the alphas. Each edge counts its output once more, as in MONAI. ``sizes``: of the grid's levels.
    """
    names, widths = list(OPERATIONS[body.dims]), body.settings.grid_widths
    found, full = torch.zeros((), device=next(body.parameters()).device), 0.0
    for block in range(len(body.blocks)):
        for e, weight in body.gates(choice, block).weights().items():
            source, target = body.grid.edges[e]
            output = widths[target] * math.prod(sizes[target])
            costs = [1 + memory_a_voxel(name, source, target, widths, body.dims) for name in names]
            p = choice.rows[f"block{block}/edge{e}/op"]
            mean = p @ torch.tensor(costs, dtype=p.dtype, device=p.device)
            found = found + output * mean * (1.0 if weight is None else weight)
            full += output * float(mean.detach())
    return found, full
