"""The network of the grid space: cells at places of a grid, and the features of the levels that a path comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..base import Body, Picks, fit_strides, level_sizes
from ..blocks.convolutions import Conv
from ..blocks.edge import add_all
from ..blocks.mix import mix
from ..blocks.mixture import Mixture
from ..blocks.norm import Norm
from ..blocks.operations import Source, fold, unfold
from ..choice import Choice
from ..counting import candidate_multiply_adds
from ..dints.ends import HouseEnds
from ..dints.parts import Down, Up
from .paths import Flow, Place, flow_of, places

if TYPE_CHECKING:
    from .space import GridSpace


class GridCell(nn.ModuleDict):
    """Nodes that sum operations on the input and on all earlier nodes; their concatenation, mapped to the width of the level.

    ``n{i}`` (before -> Mixture, and its ``norm``), ``from{level}`` (what brings an input of another level here), ``out``, ``norm``.
    """

    def __init__(
        self, space: GridSpace, place: Place, sources: Sequence[int], picks: Picks | None, generator: torch.Generator | None
    ):
        super().__init__()
        s, (layer, level) = space.settings, place
        widths, self.width = s.widths, s.widths[level]
        self.edges = space.edges_of(layer)  #: of each node: before -> row
        for source in sources:
            if source != level:
                self[f"from{source}"] = (Up if source > level else Down)(widths[source], self.width, False, generator)
        for node, edges in enumerate(self.edges):
            made = {}
            for before, row in edges.items():
                names = space.names if picks is None else (space.names[picks.get(row, 0)],)
                made[before] = Mixture(names, self.width, self.width, s.dims, generator)
            self[f"n{node}"] = nn.ModuleDict({**made, "norm": Norm(self.width)})
        if len(self.edges) > 1:
            self["out"] = Conv(len(self.edges) * self.width, self.width, (1, 1, 1), generator)
            self["norm"] = Norm(self.width)

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        """Return (B, width, X, Y, Z) of an input of the same shape."""
        read, nodes = {"s": Source(x)}, []
        for node, edges in enumerate(self.edges):
            parts = cast(nn.ModuleDict, self[f"n{node}"])
            total = add_all([parts[before](read[before], choice, row) for before, row in edges.items()])
            nodes.append(parts["norm"](total))
            read[f"n{node}"] = Source(nodes[-1])
        return nodes[0] if len(nodes) == 1 else self["norm"](self["out"](Source(torch.cat(nodes, 1))))


class GridBody(Body):
    """Cells at the places of a path; in a supernet at all places, each weighed by the probability that the path comes there.

    A place reads the mean of the places before it, weighed by the probability of having come from each. The feature of a level is the
    sum of the cells there that are on the path, and of the next coarser feature. A discrete network has the levels that it visits.
    """

    def __init__(self, space: GridSpace, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        s = space.settings
        path = None if picks is None else space.path(picks)
        top = min(s.levels, s.layers) - 1 if path is None else max(path)
        super().__init__(space, space.canonical(picks), s.widths if path is None else s.widths[: top + 1])
        self.path = path
        self.ends = HouseEnds(s.widths, [0], top, generator)
        self.cells = nn.ModuleDict()
        every = list(places(s.layers, s.levels)) if path is None else list(enumerate(path))
        for layer, level in every:
            sources = [near for near in (level - 1, level, level + 1) if (layer - 1, near) in every]
            self.cells[f"layer{layer}_level{level}"] = GridCell(space, (layer, level), sources, picks, generator)

    def flow(self, choice: Choice) -> Flow:
        """Return how probable the places of the grid are."""
        return flow_of(choice, self.settings.layers, self.settings.levels, self.path)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l); zeros of levels that no path comes to."""
        steps = fit_strides(self.settings.levels, self.dims, strides)
        choice, batch = self.choose(), x.shape[0]
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        sizes, flow = level_sizes(x.shape[2:], steps), self.flow(choice)
        sums: list[list[Tensor]] = [[] for _ in sizes]
        before: dict[int, Tensor] = {}
        for layer in range(self.settings.layers):
            now: dict[int, Tensor] = {}
            for level in range(len(sizes)):
                if (layer, level) not in flow.reach:
                    continue
                cell = cast(GridCell, self.cells[f"layer{layer}_level{level}"])
                parts = [] if layer else [x]
                for source, share, detached in flow.sources.get((layer, level), []):
                    with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
                        part = before[source]
                        if source != level:
                            part = cell[f"from{source}"](part, steps[min(source, level)], sizes[level])
                    parts.append(mix(part, share))
                now[level] = cell(add_all(parts), choice)
                sums[level].append(mix(now[level], flow.reach[layer, level]))
            before = now
        found = self.ends.finish([add_all(parts) if parts else None for parts in sums], sizes, flow.visited)
        empty = [x.new_zeros(x.shape[0], width, *size) for width, size in zip(self.widths, sizes, strict=False)]
        features = [zeros if f is None else f for f, zeros in zip(found, empty, strict=False)]
        return [unfold(f, batch) for f in features] if self.dims == 2 else features

    def expected_multiply_adds(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean multiply-adds of one sample over architectures drawn from the alphas, exactly: a scalar with gradients."""
        s = self.settings
        choice = replace(self.relaxed, prune=0.0).choose({name: getattr(self.alphas, name) for name in self.rows()})
        sizes = level_sizes(shape, fit_strides(s.levels, self.dims, strides))
        volumes, flow = [math.prod(size) for size in sizes], self.flow(choice)
        total = torch.zeros((), device=next(self.parameters()).device)
        for (layer, level), p in flow.reach.items():
            total = total + _weighed(self._cell_cost(choice, layer, level, shape[2], sizes[level]), p)
        for (_, level, target), p in flow.moves.items():
            if level != target:
                total = total + _weighed(float(s.widths[level] * s.widths[target] * volumes[max(level, target)]), p)
        for level, p in flow.visited.items():
            total = total + _weighed(float(self.ends.finish_multiply_adds(level, volumes)), p)
        return total

    def _cell_cost(self, choice: Choice, layer: int, level: int, slices: int, size: tuple[int, int, int]) -> Tensor | float:
        cell = cast(GridCell, self.cells[f"layer{layer}_level{level}"])
        count = len(cell.edges)
        one = (*size[:2], 1) if self.dims == 2 else size
        times = slices if self.dims == 2 else 1
        total: Tensor | float = float(count * cell.width**2 * math.prod(size)) if count > 1 else 0.0
        for node, edges in enumerate(cell.edges):
            for before, row in edges.items():
                names = list(cast(nn.ModuleDict, cast(nn.ModuleDict, cell[f"n{node}"])[before]))
                prices = [times * candidate_multiply_adds(n, cell.width, cell.width, self.dims, one, (1, 1, 1)) for n in names]
                p = choice.rows.get(row)
                total = total + (prices[0] if p is None else p @ torch.tensor(prices, dtype=p.dtype, device=p.device))
        return total


def _weighed(price: Tensor | float, p: Tensor | None) -> Tensor | float:
    return price if p is None else price * p
