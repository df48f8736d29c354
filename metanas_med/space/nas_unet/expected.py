"""The mean cost of NAS-Unet's architectures in closed form: every edge of every cell adds its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..base import Body, Triple, fit_strides, level_sizes
from ..blocks.operations import Source
from ..blocks.upward import UpSource
from ..choice import Choice, pairs_of
from ..counting import count_multiply_adds
from ..sketch import sketch
from .settings import Kind, NasUnetSettings, inputs_of

if TYPE_CHECKING:
    from .body import NasUnetBody


def expected_multiply_adds(body: NasUnetBody, choice: Choice, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean multiply-adds of one sample of ``shape`` over architectures drawn by ``choice``: a scalar with gradients.

    It is exact: rows are independent, all nodes run, and the cost of a network is a sum over the edges that are read.
    """
    settings: NasUnetSettings = body.settings
    x, y, z = (int(n) for n in shape)
    steps = [(2, 2, 2)] * (settings.levels - 1) if settings.form == "native" else strides
    fitted = tuple(fit_strides(settings.levels, body.dims, steps))
    fixed, costs = _table(settings, (x, y, z), fitted)  # type: ignore[arg-type]  # frozen settings have a hash
    device = next(body.parameters()).device
    total = torch.tensor(float(fixed), device=device)
    for (kind, node, before), options in costs.items():
        row = f"{kind}/n{node}/{before}"
        pair = choice.rows.get(f"{kind}/n{node}/pair")
        if row in choice.rows:
            weights = choice.rows[row]
            own = weights @ torch.tensor(options, dtype=weights.dtype, device=device)
        else:
            own = torch.tensor(options[0], device=device)
        total = total + (own if pair is None else own * (pair @ _holds(node, before).to(pair)))
    return total


def _holds(node: int, before: str) -> Tensor:
    """Return for every pair of inputs of a node whether it holds ``before``: 1 or 0."""
    return torch.tensor([float(before in pair) for pair in pairs_of(inputs_of(node))])


EdgeCosts = Mapping[tuple[Kind, int, str], list[float]]


@lru_cache(maxsize=64)
def _table(settings: NasUnetSettings, shape: Triple, steps: tuple[Triple, ...]) -> tuple[float, EdgeCosts]:
    """Return the cost of what always runs, and that of each option of each edge, summed over the cells that share it."""
    body: Any = sketch(settings, None).body
    slices = shape[2] if body.dims == 2 else 1
    sizes = level_sizes((*shape[:2], 1) if body.dims == 2 else shape, steps)
    costs: dict[tuple[Kind, int, str], list[float]] = {}
    known: dict[Any, int] = {}  # edges of one place have the same operations: each is counted once
    for name, cell in body.cells.items():
        level = int(name.removeprefix(cell.kind))
        for node in range(settings.num_nodes):
            for before, edge in cell[f"n{node}"].items():
                place = _place(cell.kind, before, level, sizes, steps)
                found = []
                for op_name, op in edge.items():
                    key = (op_name, op.cin, *place)
                    if key not in known:
                        known[key] = _count(op, *place)
                    found.append(float(slices * known[key]))
                edge_key = (cell.kind, node, before)
                costs[edge_key] = [a + b for a, b in zip(found, costs.get(edge_key, [0.0] * len(found)), strict=True)]
    return _fixed(body, shape, steps, costs), costs


def _place(
    kind: Kind, before: str, level: int, sizes: Sequence[Triple], steps: Sequence[Triple]
) -> tuple[Triple, Triple, Triple | None]:
    """Return what an edge reads: the size of its source, the stride, and the size of the finer grid where it goes up to one."""
    if kind == "down" and before in ("s0", "s1"):
        return sizes[level - 1], steps[level - 1], None
    if kind == "up" and before == "s1":
        return sizes[level + 1], steps[level], sizes[level]
    return sizes[level], (1, 1, 1), None


def _count(op: Any, volume: Triple, stride: Triple, target: Triple | None) -> int:
    """Return the multiply-adds of an operation on one sample, of the ``meta`` device."""
    x = torch.empty(1, op.cin, *volume, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        op(Source(x, stride) if target is None else UpSource(x, stride, target))
    return counter.get_total_flops() // 2


def _fixed(body: Body, shape: Triple, steps: tuple[Triple, ...], costs: EdgeCosts) -> float:
    """Return the cost of the stems and of the entries of cells: that of one architecture without its edges."""
    picks = dict.fromkeys(body.space.rows(), 0)
    example: Any = sketch(body.settings, picks).body
    whole = count_multiply_adds(lambda x: example(x, steps), example.in_width, shape)
    # every first option, and of every node the first pair, which is s0 and s1
    return whole - sum(options[0] for (_, _, before), options in costs.items() if before in ("s0", "s1"))
