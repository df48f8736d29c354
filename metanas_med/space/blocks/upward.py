"""Candidates that bring a coarse map to a finer grid: those of NAS-Unet's up cells.

They read an ``UpSource``, which other candidates read as a map that is already resized. On any other source they are as their
ordinary forms: nothing is resized.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Triple
from .norm import norm_act, plain_norm
from .normed import Squeezed
from .operations import Candidate, Source, has_size, is_thin, padding_of, pointwise, register_candidate, times

_NAS_UNET = "Weng et al. 2019, IEEE Access, NAS-Unet"


class UpSource(Source):
    """A coarse map that edges read at a finer ``size``; ``steps`` is the stride between the two grids."""

    def __init__(self, low: Tensor, steps: Triple, size: Sequence[int]) -> None:
        super().__init__(low)
        self.low, self.steps, self.size = low, steps, tuple(size)
        self._resized: Tensor | None = None

    @property
    def x(self) -> Tensor:  # type: ignore[override]
        """The map at ``size``, resized once."""
        if self._resized is None:
            self._resized = resize(self.low, self.size)
        return self._resized

    def leading(self, channels: int) -> UpSource:
        """Return the first ``channels`` channels, read in the same way."""
        return UpSource(self.low[:, :channels], self.steps, self.size)

    @x.setter
    def x(self, value: Tensor) -> None:
        self._resized = None


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, C, X, Y, Z) at ``size`` voxels, each the nearest one."""
    return x if has_size(x, size) else F.interpolate(x, size=tuple(size), mode="nearest")


def low_of(source: Source) -> tuple[Tensor, Triple, Sequence[int]]:
    """Return the coarse map of a source, the stride up from it, and the size of the result."""
    if isinstance(source, UpSource):
        return source.low, source.steps, source.size
    thin = source.thinned()
    return thin, (1, 1, 1), thin.shape[2:]


def transpose(x: Tensor, kernel: Tensor, steps: Triple, rate: int = 1, groups: int = 1) -> Tensor:
    """Return a transposed convolution of n voxels an axis to (n - 1) step + 1: kernel (cin, cout / groups, kx, ky, kz)."""
    dilation = [1 if extent == 1 else rate for extent in kernel.shape[2:]]
    padding = [step * half for step, half in zip(dilation, padding_of(kernel.shape[2:]), strict=True)]
    if not is_thin(x, kernel):
        return F.conv_transpose3d(x, kernel, None, steps, padding, 0, groups, dilation)
    with torch.autocast("cpu", enabled=False):
        return F.conv_transpose3d(x.float(), kernel.float(), None, steps, padding, 0, groups, dilation).bfloat16()


@register_candidate("up_conv", source=_NAS_UNET)
class UpConv(Candidate):
    """A transposed convolution, norm, leaky ReLU, nearest resizing."""

    merges = False
    rate = 1
    weight: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"weight": (cin, cout, *size)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        low, steps, size = low_of(source)
        return times(resize(norm_act(transpose(low, self.weight, steps, self.rate)), size), scale)


@register_candidate("up_dil_conv", source=_NAS_UNET)
class UpDilated(UpConv):
    """A transposed convolution of dilation 2, norm, leaky ReLU, nearest resizing."""

    rate = 2


@register_candidate("up_dep_conv", source=_NAS_UNET)
class UpSeparable(Candidate):
    """A transposed depthwise convolution, a 1x1x1 one, norm, leaky ReLU, nearest resizing."""

    merges = False
    depth: Tensor
    point: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"depth": (cin, 1, *size), "point": (cout, cin, 1, 1, 1)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        low, steps, size = low_of(source)
        inside = pointwise(transpose(low, self.depth, steps, groups=self.cin), self.point)
        return times(resize(norm_act(inside), size), scale)


@register_candidate("up_cweight", source=_NAS_UNET)
class UpCweight(Squeezed):
    """Squeeze-excitation, a transposed convolution, norm, nearest resizing."""

    weight: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {**Squeezed.inner(cin), "weight": (cin, cout, *size)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        low, steps, size = low_of(source)
        return times(resize(plain_norm(transpose(low * self.factors(low), self.weight, steps)), size), scale)
