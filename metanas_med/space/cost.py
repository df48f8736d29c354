"""What a network costs: parameters and multiply-adds of one sample, exactly for a discrete one, in expectation for a supernet.

Counted are the convolutions as they are run, padding included (as ``torch.utils.flop_counter`` counts, two flops a multiply-add):
pseudo-3D and depthwise-separable ones factored in a derived network. Norms, activations, pools and up-sampling count nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .choice import Choice
from .genotype import genotype_of, plan_of
from .operations import candidate_class
from .plan import BodyPlan, CellPlan, Triple, UNetSupernetSettings, fit_strides, level_sizes, rows_of, supernet_plan
from .settings import SpaceSettings
from .supernet import Body, UNetBody
from .unet import UNet, UNetSettings

Strides = Sequence[Sequence[int]]


def cost(body: Body, shape: Sequence[int], strides: Strides) -> dict[str, int]:
    """Return ``{"parameters", "multiply_adds"}`` of one sample of ``shape`` (X, Y, Z) as the body runs it.

    A derived network and a U-Net are counted exactly; a supernet as what one step of it runs: an edge is one dense convolution
    (or every candidate, where they run separately) and its unmerged candidates.
    """
    if isinstance(body, UNet):
        total = _unet_count(body.widths, body.dims, shape, fit_strides(len(body.widths), body.dims, strides))
    elif isinstance(body, UNetBody):
        total = _count(body.plan, shape, strides)
    else:
        raise TypeError(f"no cost is known for {type(body).__name__}")
    return {"parameters": sum(value.numel() for value in body.weights().values()), "multiply_adds": total}


def supernet_multiply_adds(settings: UNetSupernetSettings, shape: Sequence[int], strides: Strides) -> int:
    """Return the multiply-adds that ``cost`` counts for the supernet of ``settings`` on a sample of ``shape``, without building it."""
    return _count(supernet_plan(settings), shape, strides)


def genotype_multiply_adds(genotype: Mapping[str, Any], shape: Sequence[int], strides: Strides) -> int:
    """Return the multiply-adds of one sample of ``shape`` (X, Y, Z) through a genotype's network, without building it."""
    return _count(plan_of(genotype), shape, strides)


def expected_multiply_adds(body: UNetBody, shape: Sequence[int], strides: Strides) -> Tensor:
    """Return the mean multiply-adds over architectures drawn from the alphas as ``body.relaxed`` weighs them: a scalar with gradients.

    Rows are independent, and a path costs only where something reads it, so that at one-hot alphas this is the derived network's
    cost. For three nodes and more in a cell it is an approximation: readers of a node are taken as independent.
    """
    plan = body.plan
    rows = {name: getattr(body.alphas, name) for name in body.rows()}
    choice = replace(body.relaxed, prune=0.0).choose(rows)
    like = next(body.parameters())
    one = torch.ones((), device=like.device)
    steps = fit_strides(plan.levels, plan.dims, strides)
    volumes = level_sizes(shape, steps)
    levels = [
        (one if exists is None else exists, one if given is None else given) for exists, given in choice.levels(plan.levels)
    ]
    total = torch.zeros((), device=like.device)
    for cell in plan.cells.values():
        next_given = levels[cell.level + 1][1] if cell.kind != "up" and cell.level + 1 < plan.levels else None
        runs = levels[cell.level + 1][0] if cell.kind == "up" else levels[cell.level][0]
        total = total + runs * _expected_cell(cell, choice, plan.dims, volumes, steps, next_given, one)
    return total * _slices(plan.dims, shape)


def random_genotype_of_cost(
    settings: UNetSupernetSettings,
    target_multiply_adds: float,
    tolerance: float,
    shape: Sequence[int],
    strides: Strides,
    generator: torch.Generator | None = None,
    tries: int = 10_000,
) -> dict[str, Any]:
    """Return a random genotype whose multiply-adds are within ``tolerance`` (a share) of the target.

    A random walk: an architecture is drawn uniformly, then one row after another is redrawn, and kept where that is no farther from
    the target; costs at the tail of the space are reached too. Raises ConfigError if ``tries`` architectures hold none.
    """
    rows = rows_of(supernet_plan(settings))

    def redraw(name: str) -> int:
        return int(torch.randint(len(rows[name]), (), generator=generator))

    names, picks, nearest = list(rows), {name: redraw(name) for name in rows}, math.inf
    for _ in range(tries):
        candidate = genotype_of(settings, picks)
        found = genotype_multiply_adds(candidate, shape, strides)
        if abs(found - target_multiply_adds) <= tolerance * target_multiply_adds:
            return candidate
        if abs(found - target_multiply_adds) <= abs(nearest - target_multiply_adds):
            nearest, kept = found, picks
        changed = names[int(torch.randint(len(names), (), generator=generator))]
        picks = {**kept, changed: redraw(changed)}
    raise ConfigError(
        f"no architecture of {target_multiply_adds:.3g} multiply-adds in {tries} draws; the nearest has {nearest:.3g}"
    )


def unet_of_cost(settings: SpaceSettings, target_multiply_adds: float, shape: Sequence[int], strides: Strides) -> UNetSettings:
    """Return the settings of the plain U-Net whose multiply-adds on ``shape`` are nearest to the target.

    Levels and the proportion of ``max_width`` to ``base_width`` are those of ``settings``; the base width is searched, so the cost
    comes as near as one channel allows. Raises ConfigError where even one channel costs more than twice the target.
    """
    share = settings.max_width / settings.base_width

    def at(width: int) -> tuple[float, UNetSettings]:
        own = UNetSettings(
            dims=settings.dims, base_width=width, max_width=max(width, round(share * width)), levels=settings.levels
        )
        widths, steps = own.widths, fit_strides(own.levels, own.dims, strides)
        return abs(_unet_count(widths, own.dims, shape, steps) - target_multiply_adds), own

    found = min((at(width) for width in range(1, 4 * settings.base_width + 1)), key=lambda pair: pair[0])
    if found[0] > target_multiply_adds:
        raise ConfigError(f"no U-Net of {settings.levels} levels costs about {target_multiply_adds:.3g} multiply-adds")
    return found[1]


def candidate_multiply_adds(name: str, cin: int, cout: int, dims: int, volume: Triple, stride: Triple) -> int:
    """Return the multiply-adds of a candidate, run by itself on ``volume`` input voxels (one slice in 2D)."""
    kind, size = candidate_class(name, dims)
    return kind.multiply_adds(cin, cout, size, volume, stride)


def _slices(dims: int, shape: Sequence[int]) -> int:
    return int(shape[2]) if dims == 2 else 1


def _volumes(dims: int, volumes: Sequence[Triple]) -> list[Triple]:
    return [(x, y, 1 if dims == 2 else z) for x, y, z in volumes]


def _place(
    cell: CellPlan, before: str, dims: int, volumes: Sequence[Triple], steps: Sequence[Triple]
) -> tuple[int, Triple, Triple]:
    """Return the input channels, the input volume and the stride of an edge."""
    flat = _volumes(dims, volumes)
    if before in cell.inputs and cell.kind == "down":
        return cell.inputs[before], flat[cell.level - 1], steps[cell.level - 1]
    return cell.inputs.get(before, cell.width), flat[cell.level], (1, 1, 1)


def _count(plan: BodyPlan, shape: Sequence[int], strides: Strides) -> int:
    steps = fit_strides(plan.levels, plan.dims, strides)
    volumes = level_sizes(shape, steps)
    total = 0
    for cell in plan.cells.values():
        if cell.kind == "up":
            total += cell.below * cell.width * math.prod(_volumes(plan.dims, volumes)[cell.level + 1])
        for edges in cell.nodes:
            for before, names in edges.items():
                cin, volume, stride = _place(cell, before, plan.dims, volumes, steps)
                alone = names
                if len(names) > 1 and not plan.separate:  # one dense kernel, as large as the largest of them
                    kinds = [candidate_class(name, plan.dims) for name in names]
                    sizes = [size for kind, size in kinds if kind.merges]
                    if sizes:
                        size: Triple = (max(s[0] for s in sizes), max(s[1] for s in sizes), max(s[2] for s in sizes))
                        out = math.prod(-(-n // s) for n, s in zip(volume, stride, strict=True))
                        total += cin * cell.width * math.prod(size) * out
                    alone = tuple(name for name, (kind, _) in zip(names, kinds, strict=True) if not kind.merges)
                total += sum(candidate_multiply_adds(name, cin, cell.width, plan.dims, volume, stride) for name in alone)
    return total * _slices(plan.dims, shape)


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
    unread = {f"n{index}": one for index in range(last)}  # probability that nobody reads a node
    if last > 0:
        unread["n0"] = (1 - residual) * (one if next_given is None else 1 - next_given)
    total = one * 0.0
    if cell.kind == "up":
        total = total + float(cell.below * cell.width * math.prod(_volumes(dims, volumes)[cell.level + 1]))
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


def _unet_count(widths: Sequence[int], dims: int, shape: Sequence[int], steps: Sequence[Triple]) -> int:
    """Return the multiply-adds of the plain U-Net of ``widths``, without building it."""
    volumes = [math.prod(v) for v in _volumes(dims, level_sizes(shape, steps))]
    kernel = 9 if dims == 2 else 27
    total = 0
    for level, width in enumerate(widths):
        total += kernel * (widths[max(level - 1, 0)] + width) * width * volumes[level]
        if level + 1 < len(widths):
            total += widths[level + 1] * width * volumes[level + 1] + kernel * 3 * width * width * volumes[level]
    return total * _slices(dims, shape)
