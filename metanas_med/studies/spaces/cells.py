"""The cells of the study, and which combinations of space and learner are impossible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...space import SPACES, get_space
from ..grid.cells import cell_path, cells_named, read_cells
from .learners import search_settings
from .settings import PLAIN, SpacesSettings

#: what a step cell measures if it is no learner: the plain network of the same width, and networks of one path of the space
ONE_PATH = "one path"
#: kinds of cells, in the order in which they run: a later kind needs the results of an earlier one
STEP, SEARCH, RANDOM, FIXED = "step", "search", "random", PLAIN
KINDS = (STEP, SEARCH, RANDOM, FIXED)


@dataclass(frozen=True)
class Cell:
    """One measurement: a step's price, a search with the training of its result, a random architecture, or the U-Net."""

    kind: str
    space: str
    what: str  #: a learner, ``plain``, ``one path``; empty for random architectures and the U-Net
    number: int  #: the seed, or the number of a random architecture
    edge: str = ""  #: how mixed edges run, for steps of spaces that have a choice

    @property
    def name(self) -> str:
        """Return a name that is unique in the grid and can name a file."""
        parts = (self.kind, self.space, self.what.replace(" ", "_"), self.edge, str(self.number))
        return "-".join(part for part in parts if part)

    @property
    def file(self) -> str:
        return f"{self.name}.json"


def impossible(settings: SpacesSettings) -> dict[tuple[str, str], str]:
    """Return why a learner cannot search a space, by (space, learner), for all combinations that are impossible."""
    found = {}
    for space in settings.names:
        rows = get_space(settings.space(space)).rows()
        for learner in settings.learners:
            reason = search_settings(settings, learner).reason_against(rows)
            if not rows:
                reason = "the space has no rows at this size"
            elif all(row.type == "sampled" for row in rows.values()):
                reason = "all rows are sampled: they are drawn, never mixed, and have no alphas"
            if reason:
                found[space, learner] = reason
    return found


def grid(settings: SpacesSettings) -> list[Cell]:
    """Return the cells in the order of their kinds, then of seeds, so that a grid that stops early has all spaces."""
    legal = _legal(settings)
    cells = []
    for space in settings.names:
        if not legal[space]:
            continue
        for edge in edges_of(space):
            cells += [Cell(STEP, space, what, 0, edge) for what in ("plain", ONE_PATH, *legal[space])]
    for seed in range(settings.seeds):
        cells += [Cell(SEARCH, space, learner, seed) for space in settings.names for learner in legal[space]]
    cells += [Cell(RANDOM, space, "", number) for number in range(settings.random) for space in settings.names]
    return cells + [Cell(FIXED, space, "", seed) for seed in range(settings.seeds) for space in settings.names]


def edges_of(space: str) -> tuple[str, ...]:
    """Return how mixed edges of a space can run: merged or one by one. Spaces without a choice store candidates one by one."""
    kind = SPACES.entry(space).settings
    return ("darts", "merged") if kind is not None and "edge" in kind.model_fields else ("",)


def chosen(settings: SpacesSettings) -> list[Cell]:
    """Return the cells that ``settings.only`` names, all by default; ConfigError for none."""
    return list(cells_named(grid(settings), settings.only))


def results_of(settings: SpacesSettings, kind: str, space: str) -> list[dict[str, object]]:
    """Return the rows of the cells of a kind and space that are done."""
    cells = [cell for cell in grid(settings) if cell.kind == kind and cell.space == space]
    return [found["row"] for found in read_cells(Path(settings.out) / "cells", [cell.file for cell in cells])]


def target_cost(settings: SpacesSettings, cell: Cell) -> float | None:
    """Return the multiply-adds that a random architecture or the U-Net is to have; None: any.

    Random architectures take turns at the costs of the networks that searches found. The U-Net has their mean cost, or that of random
    architectures where nothing can be searched.
    """
    searched = [float(str(row["multiply_adds"])) for row in results_of(settings, SEARCH, cell.space)]
    if cell.kind == RANDOM:
        return searched[cell.number % len(searched)] if searched else None
    given = searched or [float(str(row["multiply_adds"])) for row in results_of(settings, RANDOM, cell.space)]
    return float(np.mean(given)) if given else None


def predicted_hours(settings: SpacesSettings, cells: Sequence[Cell], guess: Mapping[str, float]) -> float:
    """Return the hours that the missing ``cells`` take on all workers: as long as those of their kind and space, or ``guess``."""
    taken: dict[tuple[str, str], list[float]] = {}
    for found in read_cells(Path(settings.out) / "cells", [cell.file for cell in cells]):
        key = (found["cell"]["kind"], found["cell"]["space"])
        taken.setdefault(key, []).append(float(found["cell_seconds"]))
    by_kind: dict[str, list[float]] = {}
    for (kind, _), values in taken.items():
        by_kind.setdefault(kind, []).extend(values)

    def seconds(cell: Cell) -> float:
        own = taken.get((cell.kind, cell.space)) or by_kind.get(cell.kind)
        return float(np.mean(own)) if own else guess[cell.kind]

    left = [cell for cell in cells if not cell_path(settings, cell).exists()]
    return sum(seconds(cell) for cell in left) / settings.workers / 3600


def _legal(settings: SpacesSettings) -> dict[str, list[str]]:
    refused = impossible(settings)
    return {space: [one for one in settings.learners if (space, one) not in refused] for space in settings.names}
