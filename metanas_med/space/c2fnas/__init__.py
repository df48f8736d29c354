"""C2FNAS (Yu et al. 2020, arXiv 1912.09628): a topology of cells on a U (coarse), one operation a cell (fine).

The paper has no official code. As others describe it: 12 cells on a U, down in steps of one level, then up; inputs of a cell; {2D, 3D,
P3D} a cell, searched by a single path; the found network. From a third party's graph of that network: the order of a cell (1x1x1 of each
input, summed; ReLU, convolution, instance norm; 1x1x1), the strided convolutions between levels, stem and tail. Not read: whether a
topology may stay above the coarsest level (here it may not), and how the paper draws topologies (here each is equally probable).
The house form has our norms, our stem and head, the plan's strides, and upsampling by the nearest voxel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from pydantic import Field, model_validator

from ...errors import ConfigError
from ..base import Picks, Row
from ..native import FormSettings
from ..registry import register_space
from .body import C2FNASBody
from .topology import default_topology, draw_topology, every_place, level_rows, places_of, reason_against, topology_of

#: 2D, 3D and pseudo-3D convolutions, by the names of candidates
OPERATIONS = ("conv331", "conv333", "p3d")
#: operations of the network that C2FNAS found, from input to output
_FOUND = "2d p3d 3d 3d 3d 2d 3d 3d p3d 3d 2d 3d".split()


class C2FNASSettings(FormSettings):
    """Cells on a U: the level of each (sampled) and its operation (relaxed)."""

    name: str = "c2fnas"
    cells: int = Field(default=12, ge=1, le=64)  #: on the way down and up; at least 2 levels - 1
    topology: tuple[int, ...] = ()  #: level of each cell of the supernet; empty: the found one, or cells spread evenly
    search_topology: bool = True  #: offer every topology; the supernet then keeps the weights of all their cells

    @property
    def own_topology(self) -> tuple[int, ...]:
        """The level of each cell of the supernet."""
        return self.topology or default_topology(self.cells, self.levels)

    @property
    def cell_widths(self) -> tuple[int, ...]:
        """Channels of the cells of each level, finest first."""
        return super().widths

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature, finest first; a native network has one of full size and half the width of level 0."""
        return (max(1, self.base_width // 2),) if self.form == "native" else self.cell_widths

    @model_validator(mode="after")
    def _is_a_topology(self) -> C2FNASSettings:
        if self.cells < 2 * self.levels - 1:
            raise ValueError(
                f"cells: {self.levels} levels down and up need {2 * self.levels - 1} cells and more, found {self.cells}"
            )
        if self.topology and len(self.topology) != self.cells:
            raise ValueError(f"topology: expected the level of each of {self.cells} cells, found {len(self.topology)}")
        if self.topology and (reason := reason_against(self.topology, self.levels)):
            raise ValueError(f"topology: {reason}")
        return self


@register_space(
    "c2fnas",
    settings=C2FNASSettings,
    source="Yu et al. 2020, arXiv 1912.09628 (no official code; cells after a third party's graph)",
)
class C2FNAS:
    """Cells on a U: a sampled topology, and a 2D, 3D or pseudo-3D convolution a cell. In 2D the topology alone is searched."""

    def __init__(self, settings: C2FNASSettings) -> None:
        self.settings = settings
        s, own = settings, settings.own_topology
        self._levels = level_rows(s.cells, s.levels, own) if s.search_topology else {}
        ops = {f"cell{cell}/op": Row(OPERATIONS) for cell in range(s.cells)} if s.dims == 3 else {}
        self._rows = {**self._levels, **ops}

    def rows(self) -> Mapping[str, Row]:
        """Return every decision by name: ``cell0/level`` (sampled), ``cell0/op``, ..."""
        return self._rows

    def sizes(self) -> frozenset[str]:
        """Return no row: no topology is a part of another one."""
        return frozenset()

    def topology(self, picks: Picks) -> tuple[int, ...]:
        """Return the level of each cell; rows that are missing take their first option."""
        return topology_of(self.settings.own_topology, self._levels, picks)

    def canonical(self, picks: Picks) -> dict[str, int]:
        """Return ``picks``: each row decides something in every network."""
        return {name: picks.get(name, 0) for name in self._rows}

    def reason_against(self, picks: Picks) -> str:
        """Return why the levels are no topology; empty if they are one."""
        return reason_against(self.topology(picks), self.settings.levels)

    def draw(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """Return random picks: each topology equally probable, and each operation of each cell."""
        levels = draw_topology(self.settings.cells, self.settings.levels, generator) if self._levels else ()
        found = {}
        for name, row in self._rows.items():
            if name in self._levels:
                found[name] = row.options.index(str(levels[int(name[len("cell") : name.index("/")])]))
            else:
                found[name] = int(torch.randint(len(row.options), (), generator=generator))
        return found

    def cluster(self, picks: Picks) -> str:
        """Return the numbers of cells of the levels: topologies that share them are one cluster of the coarse search."""
        topology = self.topology(picks)
        return " ".join(str(topology.count(level)) for level in range(self.settings.levels))

    def edits(self, picks: Picks) -> Iterator[dict[str, int]]:
        """Yield picks that differ in one row: another operation, or one cell moved by one level where that is a topology."""
        for name, row in self._rows.items():
            for option in range(len(row.options)):
                changed = {**picks, name: option}
                if option != picks.get(name, 0) and not self.reason_against(changed):
                    yield changed

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> C2FNASBody:
        """Return the supernet, or the network of ``picks``. Raises ConfigError where the levels are no topology."""
        s, flat = self.settings, ("conv331",)
        every = OPERATIONS if s.dims == 3 else flat
        if picks is None:
            own = places_of(s.own_topology)
            kept = every_place(s.cells, s.levels) if s.search_topology else own
            return C2FNASBody(self, own, [(place, every) for place in kept], None, generator)
        if reason := self.reason_against(picks):
            raise ConfigError(f"c2fnas: {reason}")
        own, chosen = places_of(self.topology(picks)), self.canonical(picks)
        names = [(OPERATIONS[chosen[f"cell{cell}/op"]],) if s.dims == 3 else flat for cell in range(s.cells)]
        return C2FNASBody(self, own, list(zip(own, names, strict=True)), chosen, generator)

    def part(self, chosen: Mapping[str, str]) -> C2FNASSettings:
        """Return the settings of the supernet of the topology that ``chosen`` levels leave. ConfigError where they are none."""
        given = {name: self._rows[name].options.index(option) for name, option in chosen.items() if name in self._levels}
        if reason := self.reason_against(given):
            raise ConfigError(f"c2fnas: {reason}; expected the levels of all cells that differ from {self.settings.own_topology}")
        return self.settings.model_copy(update={"topology": self.topology(given), "search_topology": False})

    def published(self) -> Mapping[str, Mapping[str, str]]:
        """Return the network that C2FNAS found (12 cells, 4 levels, 3D): row -> option.

        With ``form: native, base_width: 64, max_width: 512`` its size is near the paper's 17.0 M parameters and 151 GFLOP at 96^3;
        these two figures are from memory.
        """
        s = self.settings
        if s.dims != 3 or (s.cells, s.levels) != (12, 4):
            return {}
        wanted = default_topology(12, 4)
        if not self._levels and s.own_topology != wanted:
            return {}
        names = {"2d": "conv331", "3d": "conv333", "p3d": "p3d"}
        found = {f"cell{cell}/level": str(level) for cell, level in enumerate(wanted)}
        found |= {f"cell{cell}/op": names[kind] for cell, kind in enumerate(_FOUND)}
        return {"c2fnas": {row: found[row] for row in self._rows}}
