"""Candidate operations: what an edge may do. Linear ones have a kernel and can be merged; each can run by itself, factored.

Every candidate maps (B, cin, X, Y, Z) to (B, cout, ceil(X / sx), ceil(Y / sy), ceil(Z / sz)), has no bias, pads with zeros
around a centred kernel, and has a per-channel ``gain``: a buffer measured once (calibrate.py), so that all start on one scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .merge import Part
from .plan import Triple


class Source:
    """A tensor that edges read with one stride; what several edges need of it is computed once."""

    def __init__(self, x: Tensor, stride: Triple = (1, 1, 1)) -> None:
        self.x = x
        self.stride = stride
        self._pooled: Tensor | None = None
        self._thinned: Tensor | None = None

    def thinned(self) -> Tensor:
        """Return every stride-th voxel."""
        if self._thinned is None:
            sx, sy, sz = self.stride
            last = self.x.is_contiguous(memory_format=torch.channels_last_3d)
            thin = self.x if self.stride == (1, 1, 1) else self.x[:, :, ::sx, ::sy, ::sz]
            self._thinned = thin.contiguous(memory_format=torch.channels_last_3d) if last else thin
        return self._thinned

    def max_pool(self, size: Triple) -> Tensor:
        pooled = _MaxPool.apply(self.x, size, self.stride)[0] if self._pooled is None else self._pooled  # type: ignore[index]
        self._pooled = pooled
        return pooled


def _padding(size: Sequence[int]) -> Triple:
    return (size[0] // 2, size[1] // 2, size[2] // 2)


def _scaled(kernel: Tensor, scale: Tensor | None) -> Tensor:
    return kernel if scale is None else kernel * scale.view(-1, 1, 1, 1, 1)


def _times(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale.view(1, -1, 1, 1, 1)


def _out(size: Sequence[int], stride: Sequence[int]) -> int:
    return math.prod(-(-n // s) for n, s in zip(size, stride, strict=True))


class _MaxPool(torch.autograd.Function):
    """Max pooling that keeps its indices in half the memory."""

    @staticmethod
    def forward(x: Tensor, size: Triple, stride: Triple) -> tuple[Tensor, Tensor]:
        pooled, places = torch.ops.aten.max_pool3d_with_indices(x, size, stride, _padding(size))
        return pooled, places.int()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.size, ctx.stride = inputs
        ctx.save_for_backward(x, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, places = ctx.saved_tensors
        backward = torch.ops.aten.max_pool3d_with_indices_backward
        padding = _padding(ctx.size)
        return backward(grad_outputs[0], x, ctx.size, ctx.stride, padding, (1, 1, 1), False, places.long()), None, None


def pointwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Return the 1x1x1 convolution of (B, cin, X, Y, Z) with a kernel (cout, cin, 1, 1, 1)."""
    if not x.is_contiguous(memory_format=torch.channels_last_3d):
        return F.conv3d(x, kernel)
    # a matrix product on voxels: two to seven times as fast here, and the result stays channels-last, which conv3d's does not
    return F.linear(x.permute(0, 2, 3, 4, 1), kernel.flatten(1)).permute(0, 4, 1, 2, 3)


def convolve(source: Source, kernel: Tensor) -> Tensor:
    """Return the centred, zero-padded convolution of a source with a kernel (cout, cin, kx, ky, kz)."""
    if kernel.shape[2:].numel() == 1:
        return pointwise(source.thinned(), kernel)
    return F.conv3d(source.x, kernel, None, source.stride, _padding(kernel.shape[2:]))


class Candidate(nn.Module):
    """A candidate operation; ``size`` is the extent of its kernel."""

    merges = True  #: it is linear, inside 3x3x3, and has a kernel
    gain: Tensor

    def __init__(self, cin: int, cout: int, size: Triple, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cin, self.cout, self.size = cin, cout, size
        self.register_buffer("gain", torch.ones(cout))
        for name, shape in self.shapes(cin, cout, size).items():
            std = 1.0 / math.sqrt(math.prod(shape[1:]))  # keeps the variance of white input
            self.register_parameter(name, nn.Parameter(torch.empty(shape).normal_(0.0, std, generator=generator)))

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters by name."""
        raise NotImplementedError

    @staticmethod
    def multiply_adds(cin: int, cout: int, size: Triple, volume: Triple, stride: Triple) -> int:
        """Return the multiply-adds of one sample of ``volume`` input voxels, run by itself; additions and maxima are free."""
        raise NotImplementedError

    def part(self) -> Part:
        """Return the kernel of a linear candidate for a merged sum, without its gain."""
        raise NotImplementedError

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        """Return the output with channel c times ``scale[c]`` (the scale goes into the smallest kernel, not into voxels)."""
        raise NotImplementedError


class Conv(Candidate):
    """A convolution."""

    weight: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"weight": (cout, cin, *size)}

    @staticmethod
    def multiply_adds(cin: int, cout: int, size: Triple, volume: Triple, stride: Triple) -> int:
        return cin * cout * math.prod(size) * _out(volume, stride)

    def part(self) -> Part:
        return Part("plain", self.size, (self.weight,))

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return convolve(source, _scaled(self.weight, scale))


class Pseudo3D(Candidate):
    """A 3x3x1 convolution, then a 1x1x3 one, with nothing between: linear."""

    plane: Tensor
    axis: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"plane": (cout, cin, size[0], size[1], 1), "axis": (cout, cout, 1, 1, size[2])}

    @staticmethod
    def multiply_adds(cin: int, cout: int, size: Triple, volume: Triple, stride: Triple) -> int:
        first = cin * cout * size[0] * size[1] * _out(volume, (stride[0], stride[1], 1))
        return first + cout * cout * size[2] * _out(volume, stride)

    def part(self) -> Part:
        return Part("chain", self.size, (self.plane, self.axis))

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        sx, sy, sz = source.stride
        inside = convolve(Source(source.x, (sx, sy, 1)), self.plane)
        return convolve(Source(inside, (1, 1, sz)), _scaled(self.axis, scale))


class Separable(Candidate):
    """A depthwise convolution, then a 1x1x1 one, with nothing between: linear. Run as one dense convolution where that is faster."""

    depth: Tensor
    point: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"depth": (cin, 1, *size), "point": (cout, cin, 1, 1, 1)}

    @staticmethod
    def multiply_adds(cin: int, cout: int, size: Triple, volume: Triple, stride: Triple) -> int:
        return (cin * math.prod(size) + cin * cout) * _out(volume, stride)

    def part(self) -> Part:
        return Part("product", self.size, (self.point, self.depth))

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        x = source.x
        if torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # the gradient of a depthwise convolution in bf16 takes eight times as long there as that of the dense one it equals
            kernel = _scaled(self.point, scale) * self.depth.transpose(0, 1)
            return F.conv3d(x, kernel, None, source.stride, _padding(self.size))
        inside = F.conv3d(x, self.depth, None, source.stride, _padding(self.size), 1, self.cin)
        return pointwise(inside, _scaled(self.point, scale))


class _Shortcut(Candidate):
    """What has no weights of its own, but a 1x1x1 projection where the numbers of channels differ."""

    project: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {} if cin == cout else {"project": (cout, cin, 1, 1, 1)}

    @staticmethod
    def multiply_adds(cin: int, cout: int, size: Triple, volume: Triple, stride: Triple) -> int:
        return 0 if cin == cout else cin * cout * _out(volume, stride)

    def part(self) -> Part:
        return Part("constant", self.size, () if self.cin == self.cout else (self.project,))

    def finish(self, x: Tensor, scale: Tensor | None) -> Tensor:
        return _times(x, scale) if self.cin == self.cout else pointwise(x, _scaled(self.project, scale))


class Identity(_Shortcut):
    """The centre voxel: a (strided) delta kernel."""

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return self.finish(source.thinned(), scale)


class AvgPool(_Shortcut):
    """A box mean over zero-padded voxels (``count_include_pad``, or borders would differ from the merged kernel)."""

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        x, padding = source.x, _padding(self.size)
        if any(
            extent < kernel for extent, kernel in zip(x.shape[2:], self.size, strict=True)
        ):  # torch refuses what padding would mend
            x, padding = F.pad(x, [extent for extent in padding[::-1] for _ in range(2)]), (0, 0, 0)
        return self.finish(F.avg_pool3d(x, self.size, source.stride, padding, count_include_pad=True), scale)


class MaxPool(_Shortcut):
    """The largest of the neighbours: not linear, never merged."""

    merges = False

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return self.finish(source.max_pool(self.size), scale)


class Dilated(Conv):
    """A convolution with dilation 2: linear, but it would fill 5x5x5 if merged."""

    merges = False

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        kernel = _scaled(self.weight, scale)
        # where the stride is 2, too, only every second voxel is read: an ordinary convolution of those, which is faster
        even = all(stride in (1, 2) for stride in source.stride)
        x, strides = (source.thinned(), (1, 1, 1)) if even else (source.x, source.stride)
        near = [extent == 1 or even and stride == 2 for extent, stride in zip(self.size, source.stride, strict=True)]
        dilation = [1 if single else 2 for single in near]
        padding = [step * (extent // 2) for step, extent in zip(dilation, self.size, strict=True)]
        return F.conv3d(x, kernel, None, strides, padding, dilation)


#: name -> class and kernel size of every candidate
CANDIDATES: dict[str, tuple[type[Candidate], Triple]] = {
    **{f"conv{x}{y}{z}": (Conv, (x, y, z)) for x in (1, 3) for y in (1, 3) for z in (1, 3)},
    "p3d": (Pseudo3D, (3, 3, 3)),
    "dwsep333": (Separable, (3, 3, 3)),
    "dwsep331": (Separable, (3, 3, 1)),
    "identity": (Identity, (1, 1, 1)),
    "dilated333": (Dilated, (3, 3, 3)),
    "dilated331": (Dilated, (3, 3, 1)),
    "max_pool": (MaxPool, (3, 3, 3)),
    "avg_pool": (AvgPool, (3, 3, 3)),
}


def candidate_class(name: str, dims: int) -> tuple[type[Candidate], Triple]:
    """Return the class of a candidate and the size of its kernel; pools are flat in 2D."""
    kind, size = CANDIDATES[name]
    return kind, ((size[0], size[1], 1) if dims == 2 else size)


def build_candidate(name: str, cin: int, cout: int, dims: int, generator: torch.Generator | None = None) -> Candidate:
    """Return a candidate with fresh weights."""
    kind, size = candidate_class(name, dims)
    make: Callable[..., Candidate] = kind
    return make(cin, cout, size, generator)


def fold(x: Tensor) -> Tensor:
    """Return the slices of (B, C, X, Y, Z) as samples (B * Z, C, X, Y, 1), channels last in memory."""
    batch, channels, *plane, slices = x.shape
    return x.permute(0, 4, 2, 3, 1).reshape(batch * slices, *plane, 1, channels).permute(0, 4, 1, 2, 3)


def unfold(x: Tensor, batch: int) -> Tensor:
    """Return slices (B * Z, C, X, Y, 1) stacked to volumes (B, C, X, Y, Z), channels last in memory."""
    x = x[..., 0].permute(0, 2, 3, 1)
    return x.reshape(batch, -1, *x.shape[1:]).permute(0, 2, 3, 1, 4).contiguous().permute(0, 4, 1, 2, 3)
