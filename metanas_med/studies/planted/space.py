"""The search space of the planted problem: a chain of mixed edges, and every one of its features is read by the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ...space import register_space
from ...space.base import Body, Picks, Row
from ...space.blocks.edge import Edge, Read, merge_reads
from ...space.blocks.norm import Norm
from ...space.blocks.operations import Source
from ...space.settings import SpaceSettings


class PlantedSettings(SpaceSettings):
    """The size of the planted problem; all edges have ``base_width`` channels."""

    name: str = "planted"
    base_width: int = Field(default=6, ge=1, le=512)
    levels: int = Field(default=1, ge=1, le=1)
    candidates: tuple[str, ...] = ("identity", "avg_pool", "max_pool")  #: of every edge
    num_edges: int = Field(default=5, ge=1)
    merged: bool = False  #: linear candidates of an edge are merged to one kernel


class PlantedBody(Body):
    """Step k: a mixed edge on the feature before, instance norm and leaky ReLU; all at full resolution."""

    def __init__(self, space: PlantedSpace, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        s = space.settings
        super().__init__(space, picks, (s.base_width,) * s.num_edges)
        self.edges, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for row, options in space.rows().items():
            names = options.options if picks is None else (options.options[picks[row]],)
            self.edges[row] = Edge(names, s.base_width, s.base_width, s.dims, not s.merged, generator)
            self.norms[row] = Norm(s.base_width)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the feature (B, base_width, X, Y, Z) of every step."""
        choice, features, stem = self.choose(), [], x
        for row, part in self.edges.items():
            edge = cast(Edge, part)
            read = Read(edge, None, choice.rows.get(row), choice.options(row, len(edge)))
            merge_reads([read])
            x = cast(Norm, self.norms[row])(edge(Source(stem + features[-1] if features else stem), read))
            features.append(x)
        return features


@register_space("planted", settings=PlantedSettings, source="a test of the search, with a known right answer")
class PlantedSpace:
    """A chain of edges: what every edge does can be read from the features."""

    def __init__(self, settings: PlantedSettings) -> None:
        self.settings = settings

    def rows(self) -> Mapping[str, Row]:
        """Return a row of candidates for each edge."""
        return {f"edge{k}": Row(self.settings.candidates) for k in range(self.settings.num_edges)}

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> PlantedBody:
        """Return the supernet, or the network of ``picks``."""
        return PlantedBody(self, picks, generator)
