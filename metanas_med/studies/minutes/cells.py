"""The cells of the study: one method, data set, support and budget each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..benchmark.nnunet import has_nnunet
from ..grid.cells import cells_named
from .settings import METHODS, MinutesStudySettings


@dataclass(frozen=True)
class Cell:
    """One method that has ``seconds`` for one support."""

    method: str
    dataset: str
    shots: int
    seconds: float
    draw: int

    @property
    def name(self) -> str:
        """Return a name that is unique in the grid and can name a file."""
        return f"{self.dataset}-{self.method}-{self.shots}shot-{self.seconds:g}s-draw{self.draw}"

    @property
    def file(self) -> str:
        return f"{self.name}.json"


def grid(settings: MinutesStudySettings) -> list[Cell]:
    """Return the cells: the first draw of everything before a second one, and short budgets first.

    So a study that stops early has fewer draws, not fewer organs.
    """
    order = {name: place for place, name in enumerate(settings.datasets)}
    methods = {name: place for place, name in enumerate(METHODS)}
    return sorted(_cells(settings), key=lambda c: (c.draw, c.seconds, -c.shots, order[c.dataset], methods[c.method]))


def chosen(settings: MinutesStudySettings) -> list[Cell]:
    """Return the cells that ``settings.only`` names, all by default, of the methods that can run; ConfigError for none."""
    missing = left_out(settings)
    return [cell for cell in cells_named(grid(settings), settings.only) if cell.method not in missing]


def left_out(settings: MinutesStudySettings) -> dict[str, str]:
    """Return why methods cannot run, by name."""
    found = {}
    if "joint" in settings.methods and not settings.joint:
        found["joint"] = "no jointly pretrained run was given (--joint FOLDER)"
    if "nnunet" in settings.methods and not has_nnunet():
        found["nnunet"] = "nnU-Net is not installed (extra: peers)"
    return found


def predicted_hours(cells: Sequence[Cell], overhead: float = 40.0) -> float:
    """Return the hours that ``cells`` take one after another; ``overhead``: seconds a cell for opening, scoring and more."""
    more = {"nnunet": 600.0}  # planning, a trial of two epochs, and prediction
    return sum(cell.seconds + more.get(cell.method, overhead) for cell in cells) / 3600


def _cells(settings: MinutesStudySettings) -> Iterator[Cell]:
    for dataset in settings.datasets:
        for method in settings.methods:
            for draw in range(settings.draws):
                short = () if method == "nnunet" else settings.budgets
                yield from (Cell(method, dataset, settings.shots, seconds, draw) for seconds in short)
                one = () if method == "nnunet" or settings.shots == 1 else settings.one_scan_budgets
                yield from (Cell(method, dataset, 1, seconds, draw) for seconds in one)
            if dataset in settings.long_datasets:
                for draw in range(1 if method == "nnunet" else settings.long_draws):
                    yield from (Cell(method, dataset, settings.shots, seconds, draw) for seconds in settings.long_budgets)
