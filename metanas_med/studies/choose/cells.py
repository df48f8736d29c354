"""The cells of the grid: one configuration, data set and draw each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...engine.configuration import Configuration
from ..grid.cells import cells_named
from .settings import ChooseSettings


@dataclass(frozen=True)
class Cell:
    """Two adaptations with one configuration to one support, and the scores of the configuration on that support."""

    dataset: str
    draw: int
    configuration: Configuration

    @property
    def name(self) -> str:
        """Return a name that is unique in the grid and can name a file."""
        return f"{self.dataset}-draw{self.draw}-{re.sub(r'[^A-Za-z0-9=.]+', '_', self.configuration.name)}"

    @property
    def file(self) -> str:
        return f"{self.name}.json"


def grid(settings: ChooseSettings, choices: Sequence[Configuration] | None = None) -> list[Cell]:
    """Return the cells by draw, so that a grid that stops early is balanced. ``choices``: those that the start can take."""
    given = settings.choices if choices is None else choices
    return [Cell(name, draw, each) for draw in range(settings.draws) for each in given for name in settings.names]


def chosen(settings: ChooseSettings, choices: Sequence[Configuration] | None = None) -> list[Cell]:
    """Return the cells that ``settings.only`` names, all by default; ConfigError for none."""
    return list(cells_named(grid(settings, choices), settings.only))
