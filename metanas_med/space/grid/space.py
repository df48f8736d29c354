"""The grid space: a path of cells through layers and levels, and the operations of the cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ...errors import ConfigError
from ..base import Picks, Row
from ..candidate_sets import flat_names, real_options, reason_against_none
from ..registry import register_space
from .body import GridBody
from .paths import MOVES, best_path, draw_path, moves_at, places, row_of
from .settings import GridSettings


@register_space(
    "grid",
    settings=GridSettings,
    source="after MS-NAS, Yan et al. 2020, arXiv 2007.06151, whose table of operations is not public; grid of Auto-DeepLab, "
    "Liu et al. 2019, arXiv 1901.02985",
    refuses="a native form: there is no published code, and the paper does not list its operations",
)
class GridSpace:
    """A path from the finest level through a grid of layers and levels, and one cell for all of its places (or one a layer).

    ``path{t}/level{l}``: the move to the next layer (same level, down to the next coarser one, up). Only the rows that the path
    comes to decide something. ``cell/n{i}/{before}`` (``cell{t}/...`` if cells are not shared): the operation of an edge of a cell.

    "After" MS-NAS: its expanding, contracting and non-scaling cells and the fusion of all scales are here. Its operations could not
    be read: any candidates of this toolkit take their place, such as ``nas-unet``. Partial channels are a matter of the learner.
    """

    def __init__(self, settings: GridSettings) -> None:
        self.settings = settings
        self.names = flat_names(settings.candidates, settings.dims)
        self.real = real_options(self.names)
        self._rows = {
            row_of(place): Row(moves_at(place[1], settings.levels)) for place in places(settings.layers - 1, settings.levels)
        }
        self._rows = {name: row for name, row in self._rows.items() if len(row.options) > 1}
        for row in self._operations():
            self._rows[row] = Row(self.names)

    def edges_of(self, layer: int) -> list[dict[str, str]]:
        """Return the edges of each node of the cells of a layer: what is read, and the name of its row."""
        cell = "cell" if self.settings.shared else f"cell{layer}"
        befores = [["s", *(f"n{k}" for k in range(node))] for node in range(self.settings.cell_nodes)]
        return [{before: f"{cell}/n{node}/{before}" for before in names} for node, names in enumerate(befores)]

    def _operations(self) -> list[str]:
        layers = 1 if self.settings.shared else self.settings.layers
        return [row for layer in range(layers) for edges in self.edges_of(layer) for row in edges.values() if len(self.names) > 1]

    def rows(self) -> Mapping[str, Row]:
        """Return the moves of all places that a path can come to, and the operations of the cells."""
        return self._rows

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> GridBody:
        """Return the supernet, or the network of ``picks``. Raises ConfigError where an edge would be of zeros."""
        if picks is not None and (reason := self.reason_against(picks)):
            raise ConfigError(f"grid: {reason}")
        return GridBody(self, picks, generator)

    def path(self, picks: Picks) -> list[int]:
        """Return the level of each layer."""
        found = [0]
        for layer in range(self.settings.layers - 1):
            names = moves_at(found[-1], self.settings.levels)
            found.append(found[-1] + MOVES[names[picks.get(row_of((layer, found[-1])), 0)]])
        return found

    def _path_picks(self, path: Sequence[int]) -> dict[str, int]:
        """Return the picks of the moves of a path."""
        moves = {}
        for layer, (level, after) in enumerate(zip(path, path[1:], strict=False)):
            moves[row_of((layer, level))] = [MOVES[name] for name in moves_at(level, self.settings.levels)].index(after - level)
        return {row: option for row, option in moves.items() if row in self._rows}

    def canonical(self, picks: Picks | None) -> dict[str, int] | None:
        """Return the picks that decide something: the moves of the path, and the operations of the cells."""
        if picks is None:
            return None
        return {**self._path_picks(self.path(picks)), **{row: picks.get(row, 0) for row in self._operations()}}

    def reason_against(self, picks: Picks) -> str:
        """Return why ``picks`` are no architecture: an edge of zeros; empty if there is none."""
        return reason_against_none(self._rows, picks)

    def decode(self, probabilities: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the most probable path (Viterbi), and then the most probable operation of each edge."""
        s = self.settings
        logs = {
            name: row.detach().double().cpu().clamp(min=1e-30).log()
            for name, row in probabilities.items()
            if name.startswith("path")
        }
        operations = {row: self.real[int(probabilities[row][self.real].argmax())] for row in self._operations()}
        return {**self._path_picks(best_path(logs, s.layers, s.levels)), **operations}

    def draw(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """Return a random architecture: all paths are equally probable, and so are all operations of an edge."""
        path = draw_path(self.settings.layers, self.settings.levels, generator)
        drawn = {row: self.real[int(torch.randint(len(self.real), (), generator=generator))] for row in self._operations()}
        return {**self._path_picks(path), **drawn}

    def edits(self, picks: Picks) -> Iterator[dict[str, int]]:
        """Yield the smallest edits: another operation of an edge, or another level of one layer (the moves to it and from it)."""
        own, path = self.canonical(picks) or {}, self.path(picks)
        operations = {row: own[row] for row in self._operations()}
        for row, option in operations.items():
            for other in self.real:
                if other != option:
                    yield {**own, row: other}
        for layer in range(1, len(path)):
            for level in range(self.settings.levels):
                near = [*path[:layer], level, *path[layer + 1 :]]
                if level != path[layer] and all(abs(a - b) < 2 for a, b in zip(near, near[1:], strict=False)):
                    yield {**self._path_picks(near), **operations}
