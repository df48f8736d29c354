"""Candidates that start with a ReLU and end with a norm: those of DARTS and of DiNTS. None of them merges.

Norms are instance norms without parameters, as DARTS searches with batch norms without parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Triple
from .convolutions import Conv
from .norm import plain_norm
from .operations import Candidate, Source, conv3d, convolve, padding_of, pointwise, register_candidate, times

_DARTS = "Liu et al. 2018, arXiv 1806.09055"
_DINTS = "He et al. 2021, arXiv 2103.15954"


@register_candidate("act_conv3", source=_DINTS)
@register_candidate("act_conv5", (5, 5, 5), source="the ReLU-convolution-norm of DARTS, 5x5x5")
class ActConv(Conv):
    """ReLU, a convolution, norm."""

    merges = False
    family = "act_conv"

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return times(plain_norm(convolve(Source(F.relu(source.x), source.stride), self.weight)), scale)


class ActP3D(Candidate):
    """ReLU, a flat convolution, one along the axis that it leaves out, norm."""

    merges = False
    family = "act_conv"  # a 3x3x3 convolution between the same ReLU and norm can take its values
    along = 2  #: the axis of the second convolution
    first: Tensor
    second: Tensor

    @classmethod
    def shapes(cls, cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        flat = [1 if axis == cls.along else extent for axis, extent in enumerate(size)]
        line = [extent if axis == cls.along else 1 for axis, extent in enumerate(size)]
        return {"first": (cout, cin, *flat), "second": (cout, cout, *line)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        flat, line = _split(source.stride, self.along)
        inside = convolve(Source(F.relu(source.x), flat), self.first)
        return times(plain_norm(convolve(Source(inside, line), self.second)), scale)


def _split(stride: Triple, along: int) -> tuple[Triple, Triple]:
    """Return the stride of the flat convolution and that of the one along axis ``along``."""
    x, y, z = stride
    flat = [(1, y, z), (x, 1, z), (x, y, 1)][along]
    line = [(x, 1, 1), (1, y, 1), (1, 1, z)][along]
    return flat, line


@register_candidate("act_p3d_xy", flat=None, source=_DINTS)
class ActP3DXY(ActP3D):
    """ReLU, a 3x3x1 convolution, a 1x1x3 one, norm."""


@register_candidate("act_p3d_xz", flat=None, source=_DINTS)
class ActP3DXZ(ActP3D):
    """ReLU, a 3x1x3 convolution, a 1x3x1 one, norm."""

    along = 1


@register_candidate("act_p3d_yz", flat=None, source=_DINTS)
class ActP3DYZ(ActP3D):
    """ReLU, a 1x3x3 convolution, a 3x1x1 one, norm."""

    along = 0


def separable(x: Tensor, depth: Tensor, point: Tensor, stride: Triple = (1, 1, 1), rate: int = 1) -> Tensor:
    """Return a depthwise convolution of dilation ``rate``, then a 1x1x1 one: depth (cin, 1, kx, ky, kz), point (cout, cin, 1, 1, 1)."""
    size = depth.shape[2:]
    dilation = [1 if extent == 1 else rate for extent in size]
    padding = [step * half for step, half in zip(dilation, padding_of(size), strict=True)]
    dense = torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if dense and max(size) <= 3:  # as in convolutions.Separable: the gradient of a depthwise bf16 convolution is slow there
        return conv3d(x, point * depth.transpose(0, 1), None, stride, padding, dilation)
    return pointwise(conv3d(x, depth, None, stride, padding, dilation, x.shape[1]), point)


@register_candidate("sep_conv3", source=_DARTS)
@register_candidate("sep_conv5", (5, 5, 5), source=_DARTS)
class SepConv(Candidate):
    """Twice: ReLU, a depthwise convolution, a 1x1x1 one, norm."""

    merges = False
    depth: Tensor
    point: Tensor
    depth2: Tensor
    point2: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        first = {"depth": (cin, 1, *size), "point": (cin, cin, 1, 1, 1)}
        return {**first, "depth2": (cin, 1, *size), "point2": (cout, cin, 1, 1, 1)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        inside = plain_norm(separable(F.relu(source.x), self.depth, self.point, source.stride))
        return times(plain_norm(separable(F.relu(inside), self.depth2, self.point2)), scale)


@register_candidate("dil_conv3", source=_DARTS)
@register_candidate("dil_conv5", (5, 5, 5), source=_DARTS)
class DilConv(Candidate):
    """ReLU, a depthwise convolution of dilation 2, a 1x1x1 one, norm."""

    merges = False
    rate = 2
    depth: Tensor
    point: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"depth": (cin, 1, *size), "point": (cout, cin, 1, 1, 1)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return times(plain_norm(separable(F.relu(source.x), self.depth, self.point, source.stride, self.rate)), scale)


@register_candidate("dil_conv3_rate3", source="Yan et al. 2020, arXiv 2002.09625")
class DilConv3(DilConv):
    """ReLU, a depthwise convolution of dilation 3, a 1x1x1 one, norm."""

    rate = 3
