"""Expected multiply-adds of the U-shaped space, in closed form: what a draw from the alphas costs on average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Triple, fit_strides, level_sizes
from .blocks.cell import CellPlan
from .choice import Choice
from .counting import candidate_multiply_adds
from .unet_plan import BodyPlan


def expected_multiply_adds(
    plan: BodyPlan, choice: Choice, shape: Sequence[int], strides: Sequence[Sequence[int]], device: torch.device
) -> Tensor:
    """Return the mean multiply-adds of one sample of ``shape`` (X, Y, Z) over architectures drawn by ``choice``: a scalar with gradients.

    Rows are independent, and a path costs only where something reads it, so that at one-hot alphas this is the discrete network's
    cost. For three nodes and more in a cell it is an approximation: readers of a node are taken as independent.
    """
    one = torch.ones((), device=device)
    steps = fit_strides(plan.levels, plan.dims, strides)
    volumes = level_sizes(shape, steps)
    levels = [
        (one if exists is None else exists, one if given is None else given) for exists, given in choice.levels(plan.levels)
    ]
    total = torch.zeros((), device=device)
    for cell in plan.cells.values():
        next_given = levels[cell.level + 1][1] if cell.kind != "up" and cell.level + 1 < plan.levels else None
        runs = levels[cell.level + 1][0] if cell.kind == "up" else levels[cell.level][0]
        total = total + runs * _expected_cell(cell, choice, plan.dims, volumes, steps, next_given, one)
    return total * (int(shape[2]) if plan.dims == 2 else 1)


def _flat(dims: int, volumes: Sequence[Triple]) -> list[Triple]:
    """Return the sizes of one sample: a slice in 2D."""
    return [(x, y, 1 if dims == 2 else z) for x, y, z in volumes]


def _place(
    cell: CellPlan, before: str, dims: int, volumes: Sequence[Triple], steps: Sequence[Triple]
) -> tuple[int, Triple, Triple]:
    """Return the input channels, the input volume and the stride of an edge."""
    flat = _flat(dims, volumes)
    if before in cell.inputs and cell.kind == "down":
        return cell.inputs[before], flat[cell.level - 1], steps[cell.level - 1]
    return cell.inputs.get(before, cell.width), flat[cell.level], (1, 1, 1)


def _expected_cell(
    cell: CellPlan,
    choice: Choice,
    dims: int,
    volumes: Sequence[Triple],
    steps: Sequence[Triple],
    next_given: Tensor | None,
    one: Tensor,
) -> Tensor:
    skip = choice.rows[f"{cell.name}/skip"][0] if cell.skip is None else one * float(cell.skip)
    residual = choice.rows[f"{cell.name}/residual"][1] if cell.residual is None else one * float(cell.residual)
    last = len(cell.nodes) - 1
    unread = {f"n{index}": one for index in range(last)}  # probability that a node is not read
    if last > 0:
        unread["n0"] = (1 - residual) * (one if next_given is None else 1 - next_given)
    total = one * 0.0
    if cell.kind == "up":
        total = total + float(cell.below * cell.width * math.prod(_flat(dims, volumes)[cell.level + 1]))
    for index in range(last, -1, -1):
        live = one if index == last else 1 - unread[f"n{index}"]
        edges = cell.nodes[index]
        for before, used in choice.inputs(f"{cell.name}/n{index}/pair", list(edges)).items():
            p = live if used is None else live * used
            if before in unread:
                unread[before] = unread[before] * (1 - p)
            if before == "s0":
                p = p * skip
            cin, volume, stride = _place(cell, before, dims, volumes, steps)
            prices = [float(candidate_multiply_adds(name, cin, cell.width, dims, volume, stride)) for name in edges[before]]
            row = choice.rows.get(f"{cell.name}/n{index}/{before}")
            total = total + p * (prices[0] if row is None else row @ torch.tensor(prices, dtype=row.dtype, device=row.device))
    return total
