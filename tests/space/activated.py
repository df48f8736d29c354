"""A candidate operation in one file: a convolution of what a SiLU leaves, which no kernel can imitate."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metanas_med.space import register_candidate
from metanas_med.space.blocks.convolutions import Conv
from metanas_med.space.blocks.operations import Source


@register_candidate("silu331", (3, 3, 1))
@register_candidate("silu333", flat="silu331", source="a test")
class ActivatedConv(Conv):
    """SiLU, then a convolution."""

    merges = False

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return super().forward(Source(F.silu(source.x), source.stride), scale)
