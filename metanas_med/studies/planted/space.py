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
from ...space.blocks.mixture import Mixture
from ...space.blocks.norm import Norm
from ...space.blocks.operations import Source
from ...space.choice import Choice
from ...space.settings import SpaceSettings


class PlantedSettings(SpaceSettings):
    """The size of the planted problem; all edges have ``base_width`` channels."""

    name: str = "planted"
    base_width: int = Field(default=6, ge=1, le=512)
    levels: int = Field(default=1, ge=1, le=1)
    candidates: tuple[str, ...] = ("identity", "avg_pool", "max_pool")  #: of every edge
    num_edges: int = Field(default=5, ge=1)
    merged: bool = False  #: linear candidates of an edge are merged to one kernel; otherwise each is run and stored


class PlantedBody(Body):
    """Step k: a mixed edge plus the mirrored feature of the stem, instance norm and leaky ReLU; all at full resolution.

    An edge reads the stem's feature plus the feature before. The norm alone would remove the weight of an edge that runs a single
    option, and GDAS would have no gradient: hence the sum, as in nodes of cells. A mirrored feature of white noise is correlated with
    no option; the feature itself would favour the identity.
    """

    def __init__(self, space: PlantedSpace, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        s = space.settings
        super().__init__(space, picks, (s.base_width,) * s.num_edges)
        self.edges, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for row, options in space.rows().items():
            names = options.options if picks is None else (options.options[picks[row]],)
            size = (names, s.base_width, s.base_width, s.dims)
            self.edges[row] = Edge(*size, separate=False, generator=generator) if s.merged else Mixture(*size, generator)
            self.norms[row] = Norm(s.base_width)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the feature (B, base_width, X, Y, Z) of every step."""
        choice, features, stem, mirror = self.choose(), [], x, x.flip(2, 3, 4)
        for row, part in self.edges.items():
            source = Source(stem + features[-1] if features else stem)
            x = part(source, choice, row) if isinstance(part, Mixture) else _merged(cast(Edge, part), source, choice, row)
            features.append(cast(Norm, self.norms[row])(mirror + x))
        return features


def _merged(edge: Edge, source: Source, choice: Choice, row: str) -> Tensor:
    """Return the output of an edge whose linear candidates are one kernel."""
    keep, detached = choice.options(row, len(edge)), choice.detached.get(row, ())
    read = Read(edge, None, choice.rows.get(row), keep, detached, choice.partial, choice.skip)
    merge_reads([read])
    return edge(source, read)  # type: ignore[no-any-return]


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
