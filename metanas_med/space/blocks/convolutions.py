"""Candidates that are convolutions: plain, factored, depthwise-separable, dilated."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Triple
from .merge import Part
from .operations import Candidate, Source, conv3d, convolve, padding_of, pointwise, register_candidate, scaled


@register_candidate("conv111", (1, 1, 1))
@register_candidate("conv113", (1, 1, 3), flat="conv111")
@register_candidate("conv131", (1, 3, 1))
@register_candidate("conv133", (1, 3, 3), flat="conv131")
@register_candidate("conv311", (3, 1, 1))
@register_candidate("conv313", (3, 1, 3), flat="conv311")
@register_candidate("conv331", (3, 3, 1))
@register_candidate("conv333", flat="conv331")
class Conv(Candidate):
    """A convolution."""

    weight: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"weight": (cout, cin, *size)}

    def part(self) -> Part:
        return Part("plain", self.size, (self.weight,))

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return convolve(source, scaled(self.weight, scale))


@register_candidate("p3d", flat=None, source="Qiu et al. 2017, arXiv 1711.10305")
class Pseudo3D(Candidate):
    """A 3x3x1 convolution, then a 1x1x3 one, with nothing between: linear."""

    plane: Tensor
    axis: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"plane": (cout, cin, size[0], size[1], 1), "axis": (cout, cout, 1, 1, size[2])}

    def part(self) -> Part:
        return Part("chain", self.size, (self.plane, self.axis))

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        sx, sy, sz = source.stride
        inside = convolve(Source(source.x, (sx, sy, 1)), self.plane)
        return convolve(Source(inside, (1, 1, sz)), scaled(self.axis, scale))


@register_candidate("dwsep331", (3, 3, 1))
@register_candidate("dwsep333", flat="dwsep331", source="Chollet 2017, arXiv 1610.02357")
class Separable(Candidate):
    """A depthwise convolution, then a 1x1x1 one, with nothing between: linear. Run as one dense convolution where that is faster."""

    depth: Tensor
    point: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"depth": (cin, 1, *size), "point": (cout, cin, 1, 1, 1)}

    def part(self) -> Part:
        return Part("product", self.size, (self.point, self.depth))

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        x = source.x
        if torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # the gradient of a depthwise convolution in bf16 takes eight times as long there as that of the dense one it equals
            kernel = scaled(self.point, scale) * self.depth.transpose(0, 1)
            return conv3d(x, kernel, None, source.stride, padding_of(self.size))
        inside = conv3d(x, self.depth, None, source.stride, padding_of(self.size), (1, 1, 1), self.cin)
        return pointwise(inside, scaled(self.point, scale))


@register_candidate("dilated331", (3, 3, 1))
@register_candidate("dilated333", flat="dilated331", source="Yu and Koltun 2016, arXiv 1511.07122")
class Dilated(Conv):
    """A convolution with dilation 2: linear, but it would fill 5x5x5 if merged."""

    merges = False

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        kernel = scaled(self.weight, scale)
        # where the stride is 2, too, only every second voxel is read: an ordinary convolution of those, which is faster
        even = all(stride in (1, 2) for stride in source.stride)
        x, strides = (source.thinned(), (1, 1, 1)) if even else (source.x, source.stride)
        near = [extent == 1 or even and stride == 2 for extent, stride in zip(self.size, source.stride, strict=True)]
        dilation = [1 if single else 2 for single in near]
        padding = [step * (extent // 2) for step, extent in zip(dilation, self.size, strict=True)]
        return conv3d(x, kernel, None, strides, padding, dilation)
