"""Candidates of NAS-Unet: a convolution, then norm and activation; squeeze-excitation; pools of the stride. None of them merges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Triple
from .convolutions import Conv, Dilated, Separable
from .norm import norm_act, plain_norm
from .operations import Source, convolve, pointwise, pool_windows, register_candidate, times
from .shortcuts import Shortcut

_NAS_UNET = "Weng et al. 2019, IEEE Access, NAS-Unet"
RATIO = 16  #: of squeeze-excitation: channels to hidden ones


@register_candidate("conv_act", source=_NAS_UNET)
@register_candidate("shuffle_act", source=f"{_NAS_UNET}: with the one group of the authors it is conv_act once more")
class ConvAct(Conv):
    """A convolution, norm, leaky ReLU."""

    merges = False
    family = "conv_act"

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return times(norm_act(super().forward(source)), scale)


@register_candidate("dil_act", source=_NAS_UNET)
class DilAct(Dilated):
    """A convolution of dilation 2, norm, leaky ReLU."""

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return times(norm_act(super().forward(source)), scale)


@register_candidate("dep_act", source=_NAS_UNET)
class DepAct(Separable):
    """A depthwise convolution, a 1x1x1 one, norm, leaky ReLU."""

    merges = False
    family = "conv_act"  # a dense kernel can take the values of its product

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return times(norm_act(super().forward(source)), scale)


class Squeezed(Shortcut):
    """What multiplies channels by weights that their means decide."""

    merges = False
    squeeze: Tensor
    excite: Tensor

    @staticmethod
    def inner(cin: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the two maps of ``cin`` means."""
        hidden = max(1, cin // RATIO)
        return {"squeeze": (hidden, cin, 1, 1, 1), "excite": (cin, hidden, 1, 1, 1)}

    def factors(self, x: Tensor) -> Tensor:
        """Return a factor in [0, 1] for every channel of every sample: (B, C, 1, 1, 1)."""
        return torch.sigmoid(pointwise(F.relu(pointwise(x.mean((2, 3, 4), keepdim=True), self.squeeze)), self.excite))


@register_candidate("cweight", (1, 1, 1), source=f"{_NAS_UNET}; Hu et al. 2018, arXiv 1709.01507")
class Cweight(Squeezed):
    """Squeeze-excitation; of strided edges, of every stride-th voxel."""

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {**Squeezed.inner(cin), **Shortcut.shapes(cin, cout, size)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return self.finish(source.thinned() * self.factors(source.x), scale)


@register_candidate("cweight_conv", source=_NAS_UNET)
class CweightConv(Squeezed):
    """Squeeze-excitation, a (strided) convolution, norm."""

    weight: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {**Squeezed.inner(cin), "weight": (cout, cin, *size)}

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        x = source.x * self.factors(source.x)
        return times(plain_norm(convolve(Source(x, source.stride), self.weight)), scale)


@register_candidate("max_pool_stride", (1, 1, 1), source=_NAS_UNET)
class MaxPoolStride(Shortcut):
    """The largest voxel of a window as large as the stride."""

    merges = False

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return self.finish(pool_windows(source.x, source.stride, largest=True), scale)


@register_candidate("avg_pool_stride", (1, 1, 1), source=_NAS_UNET)
class AvgPoolStride(Shortcut):
    """The mean of a window as large as the stride; at a border, of the voxels that are left."""

    merges = False

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return self.finish(pool_windows(source.x, source.stride, largest=False), scale)
