"""A network that can be followed by hand: the stem, two 1x1x1 convolutions with a norm each, the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanas_med.space.base import Body
from metanas_med.space.blocks.norm import Norm
from metanas_med.space.choice import Alphas
from metanas_med.space.network import SegmentationNet


class Line(Body):
    """Two 1x1x1 convolutions, from ``width`` to ``inner`` channels and back."""

    def __init__(self, width: int, inner: int) -> None:
        nn.Module.__init__(self)
        self.dims, self.widths, self.picks = 3, (width,), {}
        self.alphas = Alphas({})
        self.first, self.second = (nn.Parameter(torch.randn(*shape, 1, 1, 1)) for shape in ((inner, width), (width, inner)))
        self.norms = nn.ModuleList([Norm(inner), Norm(width)])

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        for kernel, norm in zip((self.first, self.second), self.norms, strict=True):
            x = norm(F.conv3d(x, kernel))
        return [x]


def line(width: int = 2, inner: int = 3, point: bool = True, dtype: torch.dtype = torch.float64) -> SegmentationNet:
    """Return the network, always the same; ``point``: the stem's kernel is its centre only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SegmentationNet(Line(width, inner)).to(dtype)
    if point:
        with torch.no_grad():
            centre = net.stem.kernel[..., 1:2, 1:2, 1:2].clone()
            net.stem.kernel.zero_()[..., 1:2, 1:2, 1:2] = centre
    return net
