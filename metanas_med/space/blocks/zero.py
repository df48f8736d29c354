"""The candidate that leaves an edge out."""

from __future__ import annotations

import torch
from torch import Tensor

from .merge import Part
from .operations import Candidate, Source, register_candidate


@register_candidate("none", (1, 1, 1), source="Liu et al. 2018, arXiv 1806.09055")
class Zero(Candidate):
    """Zeros: it takes weight from the other operations of an edge, and is never decoded."""

    @staticmethod
    def shapes(cin: int, cout: int, size: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        return {}

    def part(self) -> Part:
        return Part("zero", self.size, ())

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        x = source.thinned()
        last = x.is_contiguous(memory_format=torch.channels_last_3d)
        zeros = x.new_zeros(x.shape[0], self.cout, *x.shape[2:])
        return zeros.contiguous(memory_format=torch.channels_last_3d) if last else zeros
