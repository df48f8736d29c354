"""What a U-shaped body is made of, as plain data: which cells, nodes, edges and candidates, and which of them are searched.

One plan describes a supernet (many candidates an edge, rows of alphas) or a derived network (one candidate an edge, no rows),
so that building, running and costing are written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from pydantic import Field

from ..errors import ConfigError, suggest
from .settings import SpaceSettings

Triple = tuple[int, int, int]

#: Candidates that are linear, stay inside 3x3x3 and are merged into one convolution (operations.py).
MERGED = ("conv333", "conv331", "conv313", "conv133", "p3d", "conv111", "dwsep333", "identity")
#: Candidates that weights of a 3x3x3 kernel cannot imitate; each runs by itself, at coarse levels only.
UNMERGED = ("dilated333", "max_pool", "avg_pool")

#: Candidates of a volume -> their flat brothers; None: it has none of its own.
FLAT: dict[str, str | None] = {
    "conv333": "conv331",
    "conv331": "conv331",
    "conv313": "conv311",
    "conv133": "conv131",
    "p3d": None,
    "conv111": "conv111",
    "dwsep333": "dwsep331",
    "identity": "identity",
    "dilated333": "dilated331",
    "max_pool": "max_pool",
    "avg_pool": "avg_pool",
}


class UNetSupernetSettings(SpaceSettings):
    """The U-shaped search space of cells."""

    name: str = "unet_supernet"
    nodes: tuple[int, ...] = (1, 2, 2, 2)  #: nodes of a cell, by level; the last value serves deeper levels too
    candidates: tuple[str, ...] = MERGED  #: linear candidates, merged into one convolution an edge
    coarse_candidates: tuple[str, ...] = UNMERGED  #: candidates that weights cannot imitate, each run by itself
    coarse_from: int = Field(default=3, ge=0)  #: the first level (0 is full resolution) that offers the coarse candidates
    search_skips: bool = True  #: search which horizontal skips exist
    search_residual: bool = True  #: search which cells add their input
    search_depth: bool = False  #: search how many levels exist
    edge: Literal["merged", "plain", "darts"] = (
        "merged"  #: plain: 3x3x3 only; darts: every candidate run and stored (for comparison)
    )


@dataclass(frozen=True)
class CellPlan:
    """One cell. ``None`` for ``residual`` or ``skip`` means that it is searched."""

    name: str  #: enc0, down1, ..., up0
    kind: Literal["enc", "down", "up"]
    level: int  #: of the output; 0 is full resolution
    width: int  #: channels of every node
    inputs: dict[str, int]  #: s0 (and s1) -> channels
    nodes: tuple[dict[str, tuple[str, ...]], ...]  #: predecessor -> candidates; an empty node is never run
    pairs: bool  #: nodes of three and more predecessors choose two
    residual: bool | None
    skip: bool | None = True
    below: int = 0  #: up cells: channels of the feature from the level below

    @property
    def first(self) -> str | None:
        """Return the name of what a residual adds: the first node, the input s0, or None where nothing has the right shape."""
        if len(self.nodes) > 1:
            return "n0"
        return "s0" if self.kind in ("enc", "up") else None


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
    """Return the candidates of an edge at a level, translated to flat ones in 2D, without duplicates."""
    for name in settings.candidates:
        if name not in MERGED:
            raise ConfigError(f"unknown candidate {name!r} in space.candidates; {suggest(name, MERGED)}")
    for name in settings.coarse_candidates:
        if name not in UNMERGED:
            raise ConfigError(f"unknown candidate {name!r} in space.coarse_candidates; {suggest(name, UNMERGED)}")
    names: Sequence[str] = ("conv333",) if settings.edge == "plain" else settings.candidates
    if settings.edge != "plain" and level >= settings.coarse_from:
        names = (*names, *settings.coarse_candidates)
    chosen = [FLAT[name] if settings.dims == 2 else name for name in names]
    found = tuple(dict.fromkeys(name for name in chosen if name))
    if not found:
        raise ConfigError(
            f"no candidate is left at level {level}: space.candidates {list(settings.candidates)}, dims {settings.dims}"
        )
    return found


def predecessors(inputs: Sequence[str], node: int) -> list[str]:
    """Return the names of everything that node number ``node`` may read, in the order of its rows."""
    return [*inputs, *(f"n{index}" for index in range(node))]


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return all k (k - 1) / 2 pairs of predecessors, in the order of a pair row."""
    return list(combinations(names, 2))


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


def rows_of(plan: BodyPlan) -> dict[str, list[str]]:
    """Return the name of every row of alphas and the names of its options.

    ``cell/node/predecessor``: candidates of an edge; ``cell/node/pair``: inputs; ``cell/residual``; ``cell/skip``; ``depth``.
    """
    rows: dict[str, list[str]] = {}
    for name, cell in plan.cells.items():
        for index, edges in enumerate(cell.nodes):
            for before, names in edges.items():
                if len(names) > 1:
                    rows[f"{name}/n{index}/{before}"] = list(names)
            if cell.pairs and len(edges) > 2:
                rows[f"{name}/n{index}/pair"] = ["+".join(pair) for pair in pairs_of(list(edges))]
        if cell.residual is None:
            rows[f"{name}/residual"] = ["plain", "residual"]
        if cell.skip is None:
            rows[f"{name}/skip"] = ["skip", "none"]
    if plan.search_depth:
        rows["depth"] = [str(depth) for depth in range(2, plan.levels + 1)]
    return rows


def fit_strides(plan_levels: int, dims: int, strides: Sequence[Sequence[int]]) -> list[Triple]:
    """Return the L - 1 stride triples that are used; in 2D the last axis is never strided."""
    if len(strides) < plan_levels - 1:
        raise ConfigError(
            f"a network of {plan_levels} levels needs {plan_levels - 1} strides, found {len(strides)}: {list(strides)}"
        )
    return [(int(x), int(y), 1 if dims == 2 else int(z)) for x, y, z in strides[: plan_levels - 1]]


def level_sizes(shape: Sequence[int], strides: Sequence[Triple]) -> list[Triple]:
    """Return the size (X, Y, Z) of every level: each stride rounds up, as a centred 3x3x3 kernel does."""
    sizes: list[Triple] = [(int(shape[0]), int(shape[1]), int(shape[2]))]
    for stride in strides:
        last = sizes[-1]
        sizes.append((-(-last[0] // stride[0]), -(-last[1] // stride[1]), -(-last[2] // stride[2])))
    return sizes
