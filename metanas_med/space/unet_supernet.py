"""The U-shaped search space: encoder and decoder cells of searched edges, horizontal skips, a searched depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Body, Box, Outline, Picks, Row, Triple, fit_strides, level_sizes
from .blocks.cell import Cell, CellPlan
from .blocks.edge import merge_reads
from .blocks.mix import mix
from .blocks.operations import Candidate, Source, fold, unfold
from .candidate_sets import best_option, draw_real, reason_against_none
from .choice import Choice
from .registry import register_space
from .unet_cost import expected_multiply_adds
from .unet_plan import UNetSupernetSettings, canonical_picks, cell_names, chosen_plan, rows_of, supernet_plan


class UNetBody(Body):
    """A U-shaped body built from a plan: encoder cells, decoder cells, horizontal skips. A discrete one runs candidates factored."""

    def __init__(self, space: UNetSupernet, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        plan = space.plan if picks is None else chosen_plan(space.plan, picks)
        canonical = None if picks is None else canonical_picks(space.rows(), plan, picks)
        super().__init__(space, canonical, plan.widths)
        self.plan = plan
        self.cells = nn.ModuleDict({name: Cell(cell, plan.dims, plan.separate, generator) for name, cell in plan.cells.items()})

    def decoder(self) -> frozenset[str]:
        """Return the names of the weights of the decoder cells, their projections included."""
        return frozenset(n for n in self.weights() if n.startswith("cells.up"))

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l)."""
        plan = self.plan
        steps = fit_strides(plan.levels, plan.dims, strides)
        choice = self.choose()
        batch = x.shape[0]
        sizes = level_sizes(x.shape[2:], steps)
        if plan.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        features = self._run(x, steps, choice)
        if plan.dims == 2:
            features = [unfold(f, batch) for f in features]
        for level in range(len(features), plan.levels):  # levels that were too improbable to run
            features.append(x.new_zeros(batch, plan.widths[level], *sizes[level]))
        return features

    def _run(self, x: Tensor, steps: list[Triple], choice: Choice) -> list[Tensor]:
        levels = choice.levels(self.plan.levels)
        names = cell_names(len(levels))
        reads = {name: cast(Cell, self.cells[name]).reads(choice) for name in names}
        merge_reads([read for nodes in reads.values() for edges in nodes.values() for read in edges.values()])
        encoded: list[Tensor] = []
        inputs = {"s0": x}
        for level in range(len(levels)):
            name = f"down{level}" if level else "enc0"
            stride = steps[level - 1] if level else (1, 1, 1)
            out, first = self.cells[name](inputs, stride, choice, reads[name], need_first=level + 1 < len(levels))
            inputs = {"s0": out}
            if first is not None:
                inputs["s1"] = first
            elif level == 0:
                inputs["s1"] = x
            encoded.append(out)
        decoded = encoded[-1]
        features = [mix(decoded, levels[-1][0])]
        for level in range(len(levels) - 2, -1, -1):
            cell = cast(Cell, self.cells[f"up{level}"])
            skip = encoded[level]
            low = cast(Candidate, cell["project"])(Source(decoded))
            # nearest: trilinear upsampling costs as much as a convolution, and a convolution follows in any case
            high = F.interpolate(low, size=skip.shape[2:], mode="nearest")
            up, _ = cell({"s0": skip, "s1": high}, (1, 1, 1), choice, reads[f"up{level}"])
            given = levels[level + 1][1]
            decoded = up if given is None else mix(skip, 1 - given, up, given)
            features.append(mix(decoded, levels[level][0]))
        return features[::-1]

    def expected_multiply_adds(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean multiply-adds of one sample over architectures drawn from the alphas: a scalar with gradients."""
        choice = self._chosen(replace(self.relaxed, prune=0.0))
        return expected_multiply_adds(self.plan, choice, shape, strides, next(self.parameters()).device)

    def built(self) -> dict[str, Any]:
        """Return what is built as format 1 of genotypes wrote it: published hashes stay what they are."""
        cells, skips = {}, {}
        for name, cell in self.plan.cells.items():
            nodes = [{"inputs": {before: names[0] for before, names in edges.items()}} for edges in cell.nodes]
            cells[name] = {"nodes": nodes, "residual": bool(cell.residual)}
            if cell.kind == "up":
                skips[name] = bool(cell.skip)
        return {"dims": self.dims, "widths": list(self.widths), "cells": cells, "skips": skips}

    def outline(self) -> Outline:
        """Return a U of cells, each with the operation that it chose for every input."""
        plan = self.plan
        boxes = []
        for level in range(plan.levels):
            for name in (f"down{level}" if level else "enc0", f"up{level}"):
                if name in plan.cells:
                    side = "right" if name.startswith("up") else "left"
                    boxes.append(Box(name, _lines(plan.cells[name]), level, side, plan.widths[level]))
        skips = {cell.level: bool(cell.skip) for cell in plan.cells.values() if cell.kind == "up"}
        levels = f"{plan.levels} level{'s' if plan.levels > 1 else ''}"
        return Outline(f"{self.settings.name}, {plan.dims}D, {levels}", tuple(boxes), skips)


def weigh_pairs(name: str, row: Tensor, probabilities: Mapping[str, Tensor]) -> Tensor:
    """Return the probabilities of a row; those of a pair times the sum of its two edge weights (PC-DARTS: beta times alpha)."""
    betas = probabilities.get(f"{name.removesuffix('/pair')}/edges") if name.endswith("/pair") else None
    if betas is None:
        return row
    return row * torch.stack([betas[first] + betas[second] for first, second in combinations(range(len(betas)), 2)])


def _lines(cell: CellPlan) -> tuple[str, ...]:
    lines = []
    for number, edges in enumerate(cell.nodes):
        for place, (source, names) in enumerate(edges.items()):
            lines.append(f"{f'n{number} =' if place == 0 else '     +'} {' | '.join(names)}({source})")
    return (*lines, "+ residual") if cell.residual else tuple(lines)


@register_space(
    "unet_supernet",
    settings=UNetSupernetSettings,
    source="cells of METANAS (Elsken et al. 2020, arXiv 1911.11090), merged edges, searched skips and depth",
)
class UNetSupernet:
    """A U of cells: candidates of every edge, inputs of every node, residuals, skips and depth are searched."""

    def __init__(self, settings: UNetSupernetSettings) -> None:
        self.settings = settings
        self.plan = supernet_plan(settings)
        self._rows = rows_of(self.plan)

    def rows(self) -> Mapping[str, Row]:
        """Return every decision by name (``unet_plan.rows_of``)."""
        return self._rows

    def edges(self) -> Mapping[str, tuple[str, ...]]:
        """Return the inputs of every node that sums several."""
        return {
            f"{name}/n{index}/edges": tuple(edges)
            for name, cell in self.plan.cells.items()
            for index, edges in enumerate(cell.nodes)
            if len(edges) > 1
        }

    def decode(self, probabilities: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the most probable option of every row but ``none``; pairs are weighed by their edge weights, if there are any."""
        return {
            name: best_option(self._rows[name].options, weigh_pairs(name, row, probabilities))
            if self._mixes(name)
            else int(row.argmax())
            for name, row in probabilities.items()
            if name in self._rows
        }

    def _mixes(self, row: str) -> bool:
        """Return whether a row is one of operations or of inputs; a skip may be ``none``."""
        return self._rows[row].type in ("one", "pair")

    def draw(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """Return uniform picks; an edge is never drawn as ``none``."""
        return draw_real(self._rows, generator)

    def reason_against(self, picks: Picks) -> str:
        """Return why ``picks`` are no architecture: an edge that is ``none``; empty if they are one."""
        return reason_against_none(self._rows, picks)

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> UNetBody:
        """Return the supernet, or the network of ``picks``: one candidate an edge, and the features of the levels it has."""
        return UNetBody(self, picks, generator)
