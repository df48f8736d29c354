"""The grid: which architecture is trained on which task, its files, and how long that takes.

A cell is one training from fresh weights and its scores. It is one JSON file, written when the cell is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...pretext import check_pretexts
from ..grid.cells import cells_named
from .architectures import draw_architectures
from .settings import UnnasSettings

#: the task with labels drawn by people; every other task is a pretext task
LABELS = "labels"


@dataclass(frozen=True)
class Cell:
    """One training: of architecture ``number``, whose genotype has ``hash``, on a ``task`` ("labels" or a pretext task)."""

    number: int
    hash: str
    task: str
    seed: int

    @property
    def name(self) -> str:
        """Return a name that is unique in the grid and can name a file."""
        return f"a{self.number:03d}-{self.hash}-{self.task}-seed{self.seed}"

    @property
    def file(self) -> str:
        return f"{self.name}.json"


def grid(settings: UnnasSettings) -> list[Cell]:
    """Return every cell, architecture by architecture, so that an unfinished grid has complete ones.

    ConfigError for an unknown pretext, and for one that labels no scan.
    """
    check_pretexts(settings.pretexts, of_scans=True)
    tasks = [(LABELS, seed) for seed in range(settings.label_seeds)] + [(name, 0) for name in dict.fromkeys(settings.pretexts)]
    return [Cell(a.number, a.hash, task, seed) for a in draw_architectures(settings) for task, seed in tasks]


def chosen(settings: UnnasSettings) -> list[Cell]:
    """Return the cells that ``settings.only`` names (default: all); ConfigError for none."""
    return cells_named(grid(settings), settings.only)


def predicted_hours(settings: UnnasSettings, cells: Sequence[Cell], seconds: Mapping[str, float]) -> float:
    """Return the hours that ``cells`` take on all workers; ``seconds``: mean wall seconds of finished cells by task."""
    guess = SPARE * settings.seconds + settings.other_seconds
    return sum(seconds.get(cell.task, guess) for cell in cells) / settings.workers / 3600


#: trainings are longer than ``seconds`` by this factor, so that they still last that long where the time of a step was
#: measured too high (for labels by up to 15 %) or the machine becomes faster later
SPARE = 1.25
