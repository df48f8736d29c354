"""The parts of a DiNTS edge in both forms: operations, and what changes the level before them.

Native: activation, convolutions, instance norm (He et al. 2021, arXiv 2103.15954, section 3.2; sizes as in MONAI 1.5's ``dints_block.py``).
House: convolutions, then our norm and activation; the resampling follows the plan's strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Triple
from ..blocks.norm import EPS, norm_act
from ..blocks.operations import Candidate, Source, conv3d, has_size, padding_of, pointwise
from ..blocks.shortcuts import Identity

#: operations of an edge in the order of the published codes, with the size of their (first) kernel
OPERATIONS: dict[int, dict[str, Triple]] = {
    3: {"skip": (1, 1, 1), "conv333": (3, 3, 3), "p3d331": (3, 3, 1), "p3d313": (3, 1, 3), "p3d133": (1, 3, 3)},
    2: {"skip": (1, 1, 1), "conv331": (3, 3, 1)},
}


def kernels_of(name: str, dims: int) -> list[Triple]:
    """Return the sizes of an operation's kernels; a pseudo-3D one has a plane and then the axis that the plane lacks."""
    size = OPERATIONS[dims][name]
    if name == "skip":
        return []
    return [size] if not name.startswith("p3d") else [size, (4 - size[0], 4 - size[1], 4 - size[2])]


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the instance norm of (B, C, X, Y, Z). A single voxel never deviates from its own mean: channels in groups then."""
    channels = x.shape[1]
    if x.is_meta and not torch.is_grad_enabled():  # only the shape matters there, and torch computes it slowly
        return torch.empty_like(x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # statistics need the digits
    if prod(x.shape[2:]) > 1:  # numel() would fix the sizes of an export
        return F.instance_norm(x, None, None, weight, bias, eps=EPS)
    size = next((n for n in range(min(8, channels), channels + 1) if channels % n == 0), 1)
    if size == 1:
        return x * weight.view(1, -1, 1, 1, 1) + bias.view(1, -1, 1, 1, 1)
    return F.group_norm(x, channels // size, weight, bias, EPS)


def convolution(x: Tensor, kernel: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
    """Return the centred, zero-padded convolution of (B, cin, X, Y, Z) with a kernel (cout, cin, kx, ky, kz)."""
    return conv3d(x, kernel, None, stride, padding_of(kernel.shape[2:]))


class Unit(Candidate):
    """Convolutions of one resolution with one norm and one activation, in the house's order: they follow the convolutions."""

    merges = False
    native = False
    weight: Tensor
    bias: Tensor

    def __init__(self, cin: int, cout: int, size: Triple, generator: torch.Generator | None = None) -> None:
        super().__init__(cin, cout, size, generator)
        with torch.no_grad():
            self.weight.fill_(1.0)
            self.bias.zero_()

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {"kernel": (cout, cin, *size), "weight": (cout,), "bias": (cout,)}

    def convolve(self, x: Tensor) -> Tensor:
        """Return the convolutions of (B, cin, X, Y, Z), without norm and activation."""
        kernel: Tensor = self.kernel  # type: ignore[assignment]
        return pointwise(x, kernel) if self.size == (1, 1, 1) else convolution(x, kernel)

    def norm(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return ``x`` normalised (and activated, in the house's order) with channel c times ``scale[c]``, which is positive."""
        # the activation is homogeneous: a positive scale goes into the norm, where it costs nothing
        weight, bias = (self.weight, self.bias) if scale is None else (self.weight * scale, self.bias * scale)
        return instance_norm(x, weight, bias) if self.native else norm_act(x, weight, bias)

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        """Return (B, cout, X, Y, Z) of (B, cin, X, Y, Z)."""
        return self.norm(self.convolve(F.relu(source.x) if self.native else source.x), scale)


class Pseudo3D(Unit):
    """A convolution of a plane, then one of the axis that the plane lacks."""

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        axis = [4 - n for n in size]
        return {"plane": (cin, cin, *size), "axis": (cout, cin, *axis), "weight": (cout,), "bias": (cout,)}

    def convolve(self, x: Tensor) -> Tensor:
        for kernel in (self.plane, self.axis):
            assert isinstance(kernel, Tensor)
            x = convolution(x, kernel)
        return x


class NativeUnit(Unit):
    """Activation, convolution, instance norm."""

    native = True


class NativePseudo3D(Pseudo3D):
    """Activation, a convolution of a plane, one of the other axis, instance norm."""

    native = True


def make_operation(name: str, width: int, dims: int, native: bool, generator: torch.Generator | None) -> Candidate:
    """Return an operation that keeps the number of channels."""
    size = OPERATIONS[dims][name]
    if name == "skip":
        return Identity(width, width, size)
    kinds = (NativeUnit, NativePseudo3D) if native else (Unit, Pseudo3D)
    return kinds[name.startswith("p3d")](width, width, size, generator)


class Up(nn.Module):
    """From a coarser level: (B, cin, ...) to (B, cout, *size)."""

    def __init__(self, cin: int, cout: int, native: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        self.unit = (NativeUnit if native else Unit)(cin, cout, (1, 1, 1), generator)

    def forward(self, x: Tensor, stride: Triple, size: Sequence[int]) -> Tensor:
        if self.unit.native:
            return self.unit(Source(resize(x, size, True)))  # type: ignore[no-any-return]
        # a 1x1x1 convolution commutes with the interpolation: it runs on the fewer voxels
        return self.unit.norm(resize(self.unit.convolve(x), size))


class Down(nn.Module):
    """From a finer level by two strided 1x1x1 convolutions, the second shifted by a voxel along the strided axes.

    Odd sizes are padded with zeros to a multiple of the stride, so that both read the same number of voxels.
    """

    def __init__(self, cin: int, cout: int, native: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        self.unit = (NativeUnit if native else Unit)(cin, cout, (1, 1, 1), generator)

    def forward(self, x: Tensor, stride: Triple, size: Sequence[int]) -> Tensor:
        unit = self.unit
        x = F.relu(x) if unit.native else x
        exporting = torch.compiler.is_exporting()  # sizes are symbols there: always padded, and cut afterwards
        missing = [step - 1 if exporting else -n % step for n, step in zip(x.shape[2:], stride, strict=True)]
        if any(missing):
            x = F.pad(x, [part for more in reversed(missing) for part in (0, more)])
        first, second = unit.kernel.split([unit.cout // 2, unit.cout - unit.cout // 2])  # type: ignore[operator]
        shift = [int(step > 1) for step in stride]
        thin = x[:, :, :: stride[0], :: stride[1], :: stride[2]]
        other = x[:, :, shift[0] :: stride[0], shift[1] :: stride[1], shift[2] :: stride[2]]
        if exporting:
            thin, other = (part.narrow(2, 0, size[0]).narrow(3, 0, size[1]).narrow(4, 0, size[2]) for part in (thin, other))
        halves = [pointwise(part, kernel) for part, kernel in ((thin, first), (other, second)) if len(kernel)]
        return unit.norm(torch.cat(halves, 1))


def resize(x: Tensor, size: Sequence[int], corners: bool = False) -> Tensor:
    """Return (B, C, *size) by trilinear interpolation; ``corners``: as MONAI does, with the corner voxels kept in place."""
    if has_size(x, size):
        return x
    if x.is_meta and not torch.is_grad_enabled():
        return x.new_empty(*x.shape[:2], *size)
    return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=corners)
