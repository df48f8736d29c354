"""NAS-Unet's own operations: group norms with scale and shift, ReLU, squeeze-excitation with biases.

Written from the description in the paper; kernels are (3, 3, 1) in 2D and cubic in 3D. Names are those of the house form.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Triple
from ..blocks.normed import RATIO
from ..blocks.operations import Source, conv3d, padding_of, pool_windows, times
from ..blocks.upward import UpSource, low_of, resize, transpose

GROUP = 16  #: channels of a group of a norm


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the authors' norm: groups of 16 channels, or one where that leaves a remainder."""
    return nn.GroupNorm(1 if channels % GROUP else channels // GROUP, channels)


def kernel_size(dims: int) -> Triple:
    """Return the size of a kernel of three voxels an axis."""
    return (3, 3, 3 if dims == 3 else 1)


class NativeOp(nn.Module):
    """An operation of the authors between maps of ``c`` channels: called and merged as a candidate is, without a kernel to merge."""

    merges = False
    size: Triple = (1, 1, 1)
    gain: Tensor

    def __init__(self, c: int) -> None:
        super().__init__()
        self.cin = self.cout = c
        self.register_buffer("gain", torch.ones(c))

    def run(self, source: Source) -> Tensor:
        """Return the output."""
        raise NotImplementedError

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return times(self.run(source), scale)


class Identity(NativeOp):
    """The input."""

    def run(self, source: Source) -> Tensor:
        return source.thinned()


class Zero(NativeOp):
    """Zeros."""

    def run(self, source: Source) -> Tensor:
        return torch.zeros_like(source.thinned())


class Pool(NativeOp):
    """A pool of windows as large as the stride."""

    def __init__(self, c: int, largest: bool) -> None:
        super().__init__(c)
        self.largest = largest

    def run(self, source: Source) -> Tensor:
        return pool_windows(source.x, source.stride, self.largest)


def _kernel(cout: int, cin: int, size: Triple = (1, 1, 1)) -> nn.Parameter:
    """Return a kernel without values: ``draw_weights`` draws all of a network from one generator."""
    return nn.Parameter(torch.empty(cout, cin, *size))


def draw_weights(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw every kernel of a module from N(0, 2 / fan-in), as befits a ReLU; norms and biases keep their start."""
    for weight in module.parameters():
        if weight.ndim > 1 and not weight.is_meta:
            with torch.no_grad():
                weight.normal_(0.0, math.sqrt(2 / math.prod(weight.shape[1:])), generator=generator)


class Convolve(NativeOp):
    """Convolution, norm, ReLU: plain, dilated or depthwise-separable; transposed where ``up``."""

    def __init__(self, c: int, dims: int, rate: int = 1, separable: bool = False, up: bool = False, relu: bool = True) -> None:
        super().__init__(c)
        self.rate, self.up, self.relu = rate, up, relu
        self.weight = _kernel(c, 1 if separable else c, kernel_size(dims))
        self.point = _kernel(c, c) if separable else None
        self.norm = group_norm(c)

    def run(self, source: Source) -> Tensor:
        size = self.weight.shape[2:]
        groups = 1 if self.point is None else self.cin
        if self.up:
            low, steps, target = low_of(source)
            x = transpose(low, self.weight, steps, self.rate, groups)
        else:
            dilation = [1 if extent == 1 else self.rate for extent in size]
            padding = [step * half for step, half in zip(dilation, padding_of(size), strict=True)]
            x, target = conv3d(source.x, self.weight, None, source.stride, padding, dilation, groups), ()
        x = self.norm(x if self.point is None else conv3d(x, self.point))
        x = F.relu(x) if self.relu else x
        return resize(x, target) if self.up else x


class Cweight(NativeOp):
    """Squeeze-excitation, and a convolution with norm where the size changes: ``resizes`` is None, "down" or "up"."""

    def __init__(self, c: int, dims: int, resizes: str | None = None) -> None:
        super().__init__(c)
        hidden = max(1, c // RATIO)
        self.squeeze, self.excite = _kernel(hidden, c), _kernel(c, hidden)
        self.squeeze_bias, self.excite_bias = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(c))
        self.conv = Convolve(c, dims, up=resizes == "up", relu=False) if resizes else None

    def run(self, source: Source) -> Tensor:
        x = low_of(source)[0] if self.conv is not None and self.conv.up else source.x
        hidden = F.relu(conv3d(x.mean((2, 3, 4), keepdim=True), self.squeeze, self.squeeze_bias))
        factors = torch.sigmoid(conv3d(hidden, self.excite, self.excite_bias))
        if self.conv is None:
            return Source(x * factors, source.stride).thinned()
        return self.conv.run(_with(source, x * factors))


def _with(source: Source, x: Tensor) -> Source:
    """Return a source of another map that is read as ``source`` is."""
    return UpSource(x, source.steps, source.size) if isinstance(source, UpSource) else Source(x, source.stride)


#: name -> (channels, dims) -> operation
NATIVE: dict[str, Callable[[int, int], NativeOp]] = {
    "none": lambda c, dims: Zero(c),
    "identity": lambda c, dims: Identity(c),
    "cweight": lambda c, dims: Cweight(c, dims),
    "dil_act": lambda c, dims: Convolve(c, dims, rate=2),
    "dep_act": lambda c, dims: Convolve(c, dims, separable=True),
    "shuffle_act": lambda c, dims: Convolve(c, dims),
    "conv_act": lambda c, dims: Convolve(c, dims),
    "avg_pool_stride": lambda c, dims: Pool(c, largest=False),
    "max_pool_stride": lambda c, dims: Pool(c, largest=True),
    "cweight_conv": lambda c, dims: Cweight(c, dims, "down"),
    "up_cweight": lambda c, dims: Cweight(c, dims, "up"),
    "up_dep_conv": lambda c, dims: Convolve(c, dims, separable=True, up=True),
    "up_conv": lambda c, dims: Convolve(c, dims, up=True),
    "up_dil_conv": lambda c, dims: Convolve(c, dims, rate=2, up=True),
}


class NormedConv(nn.Module):
    """A convolution with norm; ``relu``: a ReLU before it. A stem, or what brings an input of a cell to the width of its nodes."""

    def __init__(self, cin: int, cout: int, size: Triple, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.weight = _kernel(cout, cin, size)
        self.norm = group_norm(cout)

    def forward(self, x: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
        """Return (B, cout, ...) of (B, cin, ...), rounded up where strided."""
        return self.norm(conv3d(F.relu(x) if self.relu else x, self.weight, None, stride, padding_of(self.weight.shape[2:])))
