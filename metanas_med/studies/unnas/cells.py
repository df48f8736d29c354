"""The grid: which architecture is trained on which task; its files and how long it takes.

A cell is one training from fresh weights with its scores, and one JSON file, written when it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...pretext import check_pretexts
from ..grid import cells_named
from .architectures import draw_architectures
from .settings import UnnasSettings

#: the task whose labels were drawn by people; every other one is a pretext
LABELS = "labels"


@dataclass(frozen=True)
class Cell:
    """One training: of architecture ``number``, whose genotype has ``hash``, on a ``task`` ("labels" or a pretext)."""

    number: int
    hash: str
    task: str
    seed: int

    @property
    def name(self) -> str:
        """Return a name that no other cell has, fit for a file."""
        return f"a{self.number:03d}-{self.hash}-{self.task}-seed{self.seed}"

    @property
    def file(self) -> str:
        return f"{self.name}.json"


def grid(settings: UnnasSettings) -> list[Cell]:
    """Return every cell, architecture by architecture, so that a grid that stops early compares whole ones; ConfigError for an unknown pretext."""
    check_pretexts(settings.pretexts)
    tasks = [(LABELS, seed) for seed in range(settings.label_seeds)] + [(name, 0) for name in dict.fromkeys(settings.pretexts)]
    return [Cell(a.number, a.hash, task, seed) for a in draw_architectures(settings) for task, seed in tasks]


def chosen(settings: UnnasSettings) -> list[Cell]:
    """Return the cells that ``settings.only`` names (all by default); ConfigError for none."""
    return cells_named(grid(settings), settings.only)


def predicted_hours(settings: UnnasSettings, cells: Sequence[Cell], seconds: Mapping[str, float]) -> float:
    """Return the hours that ``cells`` take on all workers; ``seconds``: mean wall seconds by task of cells that are done."""
    guess = SPARE * settings.seconds + settings.other_seconds
    return sum(seconds.get(cell.task, guess) for cell in cells) / settings.workers / 3600


#: trainings are made longer by this factor than ``seconds``, so that neither an error in what a step takes (trials of labels were found 15 % too
#: slow) nor a machine that is faster later leaves one shorter
SPARE = 1.25
