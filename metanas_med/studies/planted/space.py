"""The search space of the planted problem: parallel nodes, each of which sums edges from two inputs of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ...space import register_space
from ...space.base import Body, Picks, Row
from ...space.blocks.edge import Edge, Read, add_all, merge_reads
from ...space.blocks.norm import Norm
from ...space.blocks.operations import Source
from ...space.settings import SpaceSettings


class PlantedSettings(SpaceSettings):
    """The size of the planted problem; ``base_width`` is divided among the inputs."""

    name: str = "planted"
    base_width: int = Field(default=12, ge=1, le=512)
    levels: int = Field(default=1, ge=1, le=1)
    candidates: tuple[str, ...] = ("identity", "conv333", "dilated333", "max_pool")  #: of every edge
    num_inputs: int = Field(default=3, ge=2)  #: groups of channels, as many as there are nodes; two edges a node
    merged: bool = False  #: linear candidates of an edge are merged to one kernel


class PlantedBody(Body):
    """Node k sums edges from inputs k and k + 1. No edge reads another, so no two of them can swap their operations."""

    def __init__(self, space: PlantedSpace, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        super().__init__(space, picks)
        s = space.settings
        self.width = s.base_width // s.num_inputs
        self.edges, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for row, options in space.rows().items():
            names = options.options if picks is None else (options.options[picks[row]],)
            self.edges[row] = Edge(names, self.width, self.width, s.dims, not s.merged, generator)
        for node in range(s.num_inputs):
            self.norms[f"n{node}"] = Norm(self.width)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature (B, base_width, X, Y, Z)."""
        choice = self.choose()
        reads = {}
        for row, edge in self.edges.items():
            edge = cast(Edge, edge)
            reads[row] = Read(edge, None, choice.rows.get(row), choice.options(row, len(edge)))
        merge_reads(list(reads.values()))
        sources = [Source(part) for part in x.split(self.width, 1)]
        nodes = []
        for node, norm in self.norms.items():
            mine = [(row, read) for row, read in reads.items() if row.startswith(f"{node}/")]
            nodes.append(cast(Norm, norm)(add_all([read.edge(sources[int(row[-1])], read) for row, read in mine])))
        return [torch.cat(nodes, 1)]


@register_space("planted", settings=PlantedSettings, source="a test of the search, with a known right answer")
class PlantedSpace:
    """Parallel nodes of two edges each: what every edge does can be read from the output."""

    def __init__(self, settings: PlantedSettings) -> None:
        self.settings = settings

    def rows(self) -> Mapping[str, Row]:
        """Return a row of candidates for each edge, ``node/input``."""
        count = self.settings.num_inputs
        return {f"n{node}/s{(node + k) % count}": Row(self.settings.candidates) for node in range(count) for k in (0, 1)}

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> PlantedBody:
        """Return the supernet, or the network of ``picks``."""
        return PlantedBody(self, picks, generator)
