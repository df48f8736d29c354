"""A candidate that sees the whole map."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Triple
from .operations import Source, pointwise, register_candidate, scaled
from .shortcuts import Shortcut


@register_candidate("non_local", (1, 1, 1), source="Wang et al. 2018, arXiv 1711.07971")
class NonLocal(Shortcut):
    """``softmax(Q K') V + x`` with half of the channels; its memory grows with the square of the voxels: for coarse levels.

    Strided edges take every stride-th voxel first. ``out`` brings the half back to ``cout`` channels.
    """

    merges = False
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        half = max(1, cin // 2)
        maps = {name: (half, cin, 1, 1, 1) for name in ("query", "key", "value")}
        return {**maps, "out": (cout, half, 1, 1, 1), **Shortcut.shapes(cin, cout, size)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        x = source.thinned()
        query, key, value = (pointwise(x, kernel).flatten(2) for kernel in (self.query, self.key, self.value))
        weights = torch.softmax(query.transpose(1, 2) @ key, -1)  # (B, N, N): of each voxel, over all
        seen = (value @ weights.transpose(1, 2).to(value)).unflatten(2, x.shape[2:])
        return pointwise(seen, scaled(self.out, scale)) + self.finish(x, scale)
