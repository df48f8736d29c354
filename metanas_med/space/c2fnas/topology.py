"""Topologies of C2FNAS: the level of each cell on its way down and up, and the inputs that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..base import Picks, Row

#: level of each of the 12 cells of the network that C2FNAS found: encoder 0 0 1 1 2 3, decoder 2 2 1 0 0 0
FOUND = (0, 0, 1, 1, 2, 3, 2, 2, 1, 0, 0, 0)


@dataclass(frozen=True)
class Place:
    """Where a cell is: its weights have this name in every topology. ``number`` counts the cells of its side and level."""

    side: Literal["down", "up"]
    level: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.side}{self.level}_{self.number}"

    @property
    def reads_back(self) -> bool:
        """Whether it also reads the output two before: that is of its level only here. The stem is before the first cell."""
        return self.number >= (1 if self.side == "down" and self.level == 0 else 2)

    @property
    def joins(self) -> bool:
        """Whether it reads the skip and the level below."""
        return self.side == "up" and self.number == 0


def reason_against(topology: Sequence[int], levels: int) -> str:
    """Return why the levels of cells are no topology of ``levels`` levels; empty if they are one."""
    steps = [after - before for before, after in zip(topology, topology[1:], strict=False)]
    shown = " ".join(map(str, topology))
    if topology[0] or topology[-1]:
        return f"the first and the last cell are at level 0, found {shown}"
    if any(abs(step) > 1 for step in steps):
        return f"the level changes by one from cell to cell, found {shown}"
    if max(topology) != levels - 1:
        return f"the coarsest of {levels} levels has a cell, found {shown}"
    first_up = next((index for index, step in enumerate(steps) if step < 0), len(steps))
    if any(step > 0 for step in steps[first_up:]):
        return f"cells go down once and then up, found {shown}"
    return ""


def places_of(topology: Sequence[int]) -> tuple[Place, ...]:
    """Return the place of each cell; those of the coarsest level are on the way down."""
    bottom, counts, found = max(topology), dict[tuple[str, int], int](), []
    last = max(index for index, level in enumerate(topology) if level == bottom)
    for index, level in enumerate(topology):
        side: Literal["down", "up"] = "down" if index <= last else "up"
        number = counts.get((side, level), 0)
        counts[side, level] = number + 1
        found.append(Place(side, level, number))
    return tuple(found)


def every_place(cells: int, levels: int) -> tuple[Place, ...]:
    """Return each place that a cell has in some topology."""
    most = cells - 2 * (levels - 1)
    downs = [Place("down", level, number) for level in range(levels) for number in range(most)]
    return (*downs, *(Place("up", level, number) for level in range(levels - 1) for number in range(most)))


def of_counts(counts: Sequence[int]) -> tuple[int, ...]:
    """Return the topology with ``counts`` cells at levels 0, 1, ..., L - 1, ..., 1, 0."""
    levels = (len(counts) + 1) // 2
    way = [*range(levels), *range(levels - 2, -1, -1)]
    return tuple(level for level, count in zip(way, counts, strict=True) for _ in range(count))


def default_topology(cells: int, levels: int) -> tuple[int, ...]:
    """Return the supernet's own topology: the found one for 12 cells on 4 levels, else one with cells spread evenly."""
    if (cells, levels) == (len(FOUND), 4):
        return FOUND
    places = 2 * levels - 1
    return of_counts([cells // places + (index < cells % places) for index in range(places)])


def draw_topology(cells: int, levels: int, generator: torch.Generator | None) -> tuple[int, ...]:
    """Return one of all topologies, each equally probable: ``cells`` in a row are cut into 2 L - 1 parts."""
    cuts = (torch.randperm(cells - 1, generator=generator)[: 2 * levels - 2] + 1).sort().values.tolist()
    ends = [0, *cuts, cells]
    return of_counts([after - before for before, after in zip(ends, ends[1:], strict=False)])


def level_rows(cells: int, levels: int, own: Sequence[int]) -> dict[str, Row]:
    """Return one row a cell: the levels that it has in some topology, the supernet's own first."""
    rows, bottom = {}, levels - 1
    for cell in range(cells):
        after = cells - 1 - cell
        options = [
            level
            for level in range(levels)
            if (cell >= level and after >= 2 * bottom - level) or (cell >= 2 * bottom - level and after >= level)
        ]
        ordered = (own[cell], *(level for level in options if level != own[cell]))
        if len(ordered) > 1:
            rows[f"cell{cell}/level"] = Row(tuple(map(str, ordered)), "sampled")
    return rows


def topology_of(own: Sequence[int], rows: Mapping[str, Row], picks: Picks) -> tuple[int, ...]:
    """Return the level of each cell; cells without a row or a pick have that of ``own``."""
    found = []
    for cell, level in enumerate(own):
        row = rows.get(f"cell{cell}/level")
        found.append(level if row is None else int(row.options[picks.get(f"cell{cell}/level", 0)]))
    return tuple(found)
