"""What a U-shaped body is made of, as plain data: which cells, nodes, edges and candidates, and which of them are searched.

One plan describes a supernet (many candidates an edge, rows of alphas) or a discrete network (one candidate an edge, no rows),
so that building and running are written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from ..errors import ConfigError
from .base import Picks, Row
from .blocks.cell import CellPlan
from .blocks.operations import candidate_kind
from .candidate_sets import MERGED, UNMERGED, CellSettings, flat_names
from .choice import pairs_of


class UNetSupernetSettings(CellSettings):
    """The U-shaped search space of cells."""

    name: str = "unet_supernet"
    nodes: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        default=(1, 2, 2, 2), min_length=1, max_length=16
    )  #: nodes of a cell, by level; the last value serves deeper levels too
    candidates: tuple[str, ...] = Field(
        default=MERGED, max_length=64
    )  #: of every edge, or the name of a candidate set; linear ones merge into one convolution
    coarse_candidates: tuple[str, ...] = Field(
        default=UNMERGED, max_length=64
    )  #: candidates that weights cannot imitate, each run by itself
    coarse_from: int = Field(default=3, ge=0)  #: the first level (0 is full resolution) that offers the coarse candidates
    search_skips: bool = True  #: search which horizontal skips exist
    search_residual: bool = True  #: search which cells add their input
    search_depth: bool = False  #: search how many levels exist
    edge_weights: bool = False  #: also learn softmax weights of a node's inputs (edge normalization of PC-DARTS)
    edge: Literal["merged", "plain", "darts"] = (
        "merged"  #: plain: 3x3x3 only; darts: every candidate run and stored (for comparison)
    )


@dataclass(frozen=True)
class BodyPlan:
    """A whole body; ``widths`` are the channels of the returned features, finest first."""

    dims: int
    widths: tuple[int, ...]
    cells: dict[str, CellPlan]
    search_depth: bool = False
    separate: bool = False  #: run every candidate by itself, as an ordinary DARTS supernet does

    @property
    def levels(self) -> int:
        return len(self.widths)


def candidate_names(settings: UNetSupernetSettings, level: int) -> tuple[str, ...]:
    """Return the candidates of an edge at a level, translated to flat ones in 2D, without duplicates. ConfigError for an unknown one."""
    for name in (*settings.candidates, *settings.coarse_candidates):
        candidate_kind(name)
    names = ("conv333",) if settings.edge == "plain" else settings.candidates
    if settings.edge != "plain" and level >= settings.coarse_from:
        names = (*names, *settings.coarse_candidates)
    return flat_names(names, settings.dims)


def predecessors(inputs: Sequence[str], node: int) -> list[str]:
    """Return the names of everything that node number ``node`` may read, in the order of its rows."""
    return [*inputs, *(f"n{index}" for index in range(node))]


def cell_names(levels: int) -> list[str]:
    """Return the names of the cells in the order in which they run."""
    return ["enc0", *(f"down{level}" for level in range(1, levels)), *(f"up{level}" for level in range(levels - 2, -1, -1))]


def nodes_at(settings: UNetSupernetSettings, level: int) -> int:
    """Return the number of nodes of the cells at a level."""
    return settings.nodes[min(level, len(settings.nodes) - 1)]


def supernet_plan(settings: UNetSupernetSettings) -> BodyPlan:
    """Return the plan of the whole search space."""
    widths = settings.widths
    if not settings.nodes or min(settings.nodes) < 1:
        raise ConfigError(f"space.nodes: every cell needs a node, found {list(settings.nodes)}")
    cells: dict[str, CellPlan] = {}
    searched = settings.edge != "plain"
    for name in cell_names(settings.levels):
        kind: Literal["enc", "down", "up"] = "up" if name.startswith("up") else "down" if name.startswith("down") else "enc"
        level = int(name[len(kind) :])
        width = widths[level]
        source = widths[level - 1] if kind == "down" else width
        inputs = {"s0": source} if kind == "enc" else {"s0": source, "s1": source}
        if kind == "down" and level > 1 and nodes_at(settings, level - 1) == 1:
            del inputs["s1"]  # the cell before has one node: its first node is its output
        count = nodes_at(settings, level)
        names = candidate_names(settings, level)
        nodes = tuple({before: names for before in predecessors(list(inputs), index)} for index in range(count))
        can_add = count > 1 or kind != "down"
        cells[name] = CellPlan(
            name=name,
            kind=kind,
            level=level,
            width=width,
            inputs=inputs,
            nodes=nodes,
            pairs=searched,
            residual=None if searched and settings.search_residual and can_add else False,
            skip=None if searched and settings.search_skips and kind == "up" else True,
            below=widths[level + 1] if kind == "up" else 0,
        )
    depth = searched and settings.search_depth and settings.levels > 2
    return BodyPlan(settings.dims, widths, cells, search_depth=depth, separate=settings.edge == "darts")


def rows_of(plan: BodyPlan) -> dict[str, Row]:
    """Return every row of alphas by name.

    ``cell/node/predecessor``: candidates of an edge; ``cell/node/pair``: inputs; ``cell/residual``; ``cell/skip``; ``depth``.
    """
    rows: dict[str, Row] = {}
    for name, cell in plan.cells.items():
        for index, edges in enumerate(cell.nodes):
            for before, names in edges.items():
                if len(names) > 1:
                    rows[f"{name}/n{index}/{before}"] = Row(names)
            if cell.pairs and len(edges) > 2:
                rows[f"{name}/n{index}/pair"] = Row(tuple("+".join(pair) for pair in pairs_of(list(edges))), "pair")
        if cell.residual is None:
            rows[f"{name}/residual"] = Row(("plain", "residual"), "gate")
        if cell.skip is None:
            rows[f"{name}/skip"] = Row(("skip", "none"), "gate")
    if plan.search_depth:
        rows["depth"] = Row(tuple(str(depth) for depth in range(2, plan.levels + 1)))
    return rows


def chosen_plan(plan: BodyPlan, picks: Picks) -> BodyPlan:
    """Return the plan of the discrete network that takes option ``picks[row]`` of every row: one candidate an edge, no rows.

    Only what runs is in it: no cells of levels that were not chosen, no edges of a node that is not read, and none from a skip that is off.
    """
    depth = picks["depth"] + 2 if plan.search_depth else plan.levels
    cells: dict[str, CellPlan] = {}
    for name in cell_names(depth):
        cell = plan.cells[name]
        nodes: list[dict[str, tuple[str, ...]]] = []
        for index, edges in enumerate(cell.nodes):
            row = f"{name}/n{index}/pair"
            chosen = pairs_of(list(edges))[picks[row]] if row in picks else tuple(edges)
            nodes.append({before: (edges[before][picks.get(f"{name}/n{index}/{before}", 0)],) for before in chosen})
        residual = bool(picks[f"{name}/residual"]) if cell.residual is None else cell.residual
        skip = picks[f"{name}/skip"] == 0 if cell.skip is None else cell.skip
        cells[name] = _only_live(replace(cell, nodes=tuple(nodes), residual=residual, skip=skip, pairs=False), depth)
    return BodyPlan(plan.dims, plan.widths[:depth], cells)


def _only_live(cell: CellPlan, depth: int) -> CellPlan:
    """Return the cell without what has no effect: edges from a skip that is off, nodes that are not read."""
    off = cell.skip is False
    nodes = [{before: names for before, names in edges.items() if not (off and before == "s0")} for edges in cell.nodes]
    residual = cell.residual and cell.first is not None and not (off and cell.first == "s0")
    live = {f"n{len(nodes) - 1}"}
    if residual or (cell.kind != "up" and cell.level + 1 < depth):  # the next encoder cell reads the first node, too
        live.add("n0")
    for index in range(len(nodes) - 1, -1, -1):
        if f"n{index}" in live:
            live.update(nodes[index])
    kept = tuple(edges if f"n{index}" in live else {} for index, edges in enumerate(nodes))
    return replace(cell, nodes=kept, residual=bool(residual))


def canonical_picks(rows: Mapping[str, Row], chosen: BodyPlan, picks: Picks) -> dict[str, int]:
    """Return the picks that decide something in the discrete network ``chosen``, in the order of ``rows``."""
    found: dict[str, int] = {}
    for row in rows:
        if row == "depth":
            found[row] = picks[row]
            continue
        name, *place = row.split("/")
        cell = chosen.cells.get(name)
        if cell is None:
            continue
        if place == ["skip"]:
            found[row] = picks[row]
        elif place == ["residual"]:
            found[row] = int(bool(cell.residual))
        elif edges := cell.nodes[int(place[0][1:])]:
            if place[1] == "pair" or place[1] in edges:
                found[row] = picks[row]
    return found
