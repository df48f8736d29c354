"""nnU-Net's two U-Nets, plain and residual encoder, of any size: one class for house and native form, supernet and network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Body, Box, Outline, Picks, SearchSpace, Triple, fit_strides
from ..blocks.instance import NormedAct, check_batch, drop_channels, noise_of
from ..blocks.operations import conv3d, fold, padding_of, pointwise, unfold
from .plan import Held, Plan, Side, held_by


def drawn(shape: Sequence[int], generator: torch.Generator | None) -> nn.Parameter:
    """Return a kernel (cout, cin, ...) drawn as He et al. do for a leaky ReLU of slope 0.01."""
    value = torch.empty(tuple(shape))
    if not value.is_meta:  # there only shapes matter, and draws would take most of the time
        value.normal_(0.0, math.sqrt(2.0 / (1 + 0.01**2) / math.prod(shape[1:])), generator=generator)
    return nn.Parameter(value)


class ConvUnit(nn.Module):
    """Convolution, channel dropout, norm, activation. ``skip``: channels of a second input with a kernel of its own.

    The two kernels are those of one convolution of both inputs side by side; apart, leading parts of each are those of a narrower
    network.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        size: Triple,
        generator: torch.Generator | None,
        *,
        bias: bool = False,
        skip: int = 0,
        batch: bool = False,
        slope: bool = False,
    ) -> None:
        super().__init__()
        self.weight = drawn((cout, cin, *size), generator)
        self.skip = drawn((cout, skip, *size), generator) if skip else None
        self.bias = nn.Parameter(torch.zeros(cout)) if bias else None
        self.norm = NormedAct(cout, batch, slope)

    def forward(
        self, x: Tensor, stride: Triple, side: Side, noise: torch.Generator | None, other: Tensor | None = None, act: bool = True
    ) -> Tensor:
        """Return (B, cout, X, Y, Z) of ``x`` (B, cin, X', Y', Z') and ``other`` (B, skip, ...); without the activation if not ``act``."""
        kernel = self.weight
        if other is not None:
            assert self.skip is not None
            kernel, x = torch.cat([kernel, self.skip], 1), torch.cat([x, other.to(x.dtype)], 1)
        x = conv3d(x, kernel, self.bias, stride, padding_of(kernel.shape[2:]))
        return self.norm(drop_channels(x, side.dropout, noise), side.activation if act else "none", side.norm)


class Skip(nn.Module):
    """What a residual block adds where channels change: a 1x1x1 convolution without bias, and a norm with scale and shift."""

    def __init__(self, cin: int, cout: int, generator: torch.Generator | None, batch: bool) -> None:
        super().__init__()
        self.weight = drawn((cout, cin, 1, 1, 1), generator)
        self.norm = NormedAct(cout, batch)

    def forward(self, x: Tensor, side: Side) -> Tensor:
        return self.norm(pointwise(x, self.weight), "none", side.norm)


class Up(nn.Module):
    """A transposed convolution whose kernel is its stride (native)."""

    def __init__(self, cin: int, cout: int, stride: Triple, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = drawn((cin, cout, *stride), generator)
        self.bias = nn.Parameter(torch.zeros(cout))

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return (B, cout, *size): what is left over at odd sizes is cut off."""
        stride = tuple(self.weight.shape[2:])
        x = F.conv_transpose3d(x, self.weight, self.bias, stride)
        if not torch.compiler.is_exporting():
            return x[:, :, : size[0], : size[1], : size[2]]
        for axis, length in enumerate(size, start=2):  # a copy: sizes are symbols there, and so is the layout of a cut map
            x = x.index_select(axis, torch.arange(length, device=x.device))
        return x


class Project(nn.Module):
    """A 1x1x1 convolution, and the nearest voxel of the coarser grid (house): any stride and any size."""

    def __init__(self, cin: int, cout: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = drawn((cout, cin, 1, 1, 1), generator)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(pointwise(x, self.weight), size=tuple(size), mode="nearest")


class Heads(nn.Module):
    """nnU-Net's last layers: a 1x1x1 convolution with bias at each stage of the decoder, all but the finest for deep supervision."""

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv3d(width, num_classes, 1) for width in widths)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, X, Y, Z) of the finest feature."""
        return self.heads[0](features[0])


class StructureBody(Body):
    """A U-Net as nnU-Net plans it. Cost: that of its convolutions. The supernet is the network of all first options.

    House: no bias, instance norm, the plan's strides, one feature a stage; the stem before it is ours. Native: convolutions with bias,
    strides of 2, transposed convolutions, its own first convolution, one feature a stage of the decoder.
    """

    def __init__(
        self, space: SearchSpace, plan: Plan, picks: Picks | None, held: Held | None, generator: torch.Generator | None
    ) -> None:
        native = space.settings.form == "native"
        super().__init__(space, picks, plan.widths[:-1] if native else plan.widths)
        self.plan, self.native = plan, native
        self.takes_images = native
        held = held_by((plan,)) if held is None else held
        depth = 1 if self.dims == 2 else 3
        size: Triple = (3, 3, depth)
        self.blocks = nn.ModuleDict()
        for side, name, cin, cout, skip in _units(plan, held, space.settings.num_channels, native):
            given = {"bias": native, "skip": skip, "batch": held.statistics[side], "slope": held.slopes[side]}
            self.blocks[name] = ConvUnit(cin, cout, size, generator, **given)
        widths = plan.widths
        for level in range(plan.levels):
            cin = widths[max(level - 1, 0)]
            if held.skips[level]:
                self.blocks[f"down{level}_skip"] = Skip(cin, widths[level], generator, held.statistics[0])
            if level < plan.levels - 1:
                step: Triple = (2, 2, 1 if self.dims == 2 else 2)
                below = widths[level + 1]
                self.blocks[f"project{level}"] = (
                    Up(below, widths[level], step, generator) if native else Project(below, widths[level], generator)
                )

    def decoder(self) -> frozenset[str]:
        """Return the names of the weights of the way up, the projections included."""
        return frozenset(n for n in self.weights() if n.startswith(("blocks.up", "blocks.project")))

    def classifier(self, num_classes: int) -> nn.Module:
        """Return the native form's last layers."""
        return Heads(self.widths, num_classes)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a stage, finest first: (B, widths[l], X_l, Y_l, Z_l).

        ``x``: (B, widths[0], X, Y, Z) in house; images (B, num_channels, X, Y, Z) in native form, which reads no ``strides``.
        """
        plan, batch = self.plan, x.shape[0]
        check_batch([side.norm for side in plan.sides], self.training and not x.is_meta, batch)
        own = [(2, 2, 2)] * (plan.levels - 1) if self.native else strides
        steps = fit_strides(plan.levels, self.dims, own)
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        drops = self.training and not x.is_meta and any(side.dropout for side in plan.sides)
        noise = noise_of(x) if drops else None
        if self.native:
            x = self._unit("stem", x, noise)
        encoded: list[Tensor] = []
        for level in range(plan.levels):
            x = self._down(level, x, steps[level - 1] if level else (1, 1, 1), noise)
            encoded.append(x)
        features = [x]
        for level in range(plan.levels - 2, -1, -1):
            high = self.blocks[f"project{level}"](x, encoded[level].shape[2:])
            x = cast(ConvUnit, self.blocks[f"up{level}_0"])(high, (1, 1, 1), plan.sides[1], noise, encoded[level])
            for number in range(1, plan.decoder[level]):
                x = self._unit(f"up{level}_{number}", x, noise, 1)
            features.append(x)
        if self.native:
            features = features[1:]  # no head reads the bottleneck
        if self.dims == 2:
            features = [unfold(f, batch) for f in features]
        return features[::-1]

    def _unit(
        self, name: str, x: Tensor, noise: torch.Generator | None, side: int = 0, stride: Triple = (1, 1, 1), act: bool = True
    ) -> Tensor:
        return cast(ConvUnit, self.blocks[name])(x, stride, self.plan.sides[side], noise, None, act)

    def _down(self, level: int, x: Tensor, stride: Triple, noise: torch.Generator | None) -> Tensor:
        """Return the encoder's feature at a stage."""
        plan = self.plan
        if not plan.residual:  # the native stem is the first convolution of the first stage
            for number in range(1 if self.native and level == 0 else 0, plan.encoder[level]):
                x = self._unit(f"down{level}_{number}", x, noise, 0, stride if number == 0 else (1, 1, 1))
            return x
        for block in range(plan.encoder[level]):
            step: Triple = stride if block == 0 else (1, 1, 1)
            inside = self._unit(f"down{level}_{2 * block}", x, noise, 0, step)
            inside = self._unit(f"down{level}_{2 * block + 1}", inside, noise, 0, act=False)
            x = x if step == (1, 1, 1) else F.avg_pool3d(x, step, step, ceil_mode=True)
            if block == 0 and plan.projects(level):
                x = self.blocks[f"down{level}_skip"](x, plan.sides[0])
            norm = cast(ConvUnit, self.blocks[f"down{level}_{2 * block + 1}"]).norm
            x = norm.act(inside + x, plan.sides[0].activation)
        return x

    def outline(self) -> Outline:
        """Return a U with the number of blocks of every stage."""
        plan, boxes = self.plan, []
        for level, width in enumerate(plan.widths):
            kind = "residual block" if plan.residual else "conv"
            boxes.append(Box(f"down{level}", (f"{plan.encoder[level]} x {kind}",), level, "left", width))
            if level < plan.levels - 1:
                boxes.append(Box(f"up{level}", (f"{plan.decoder[level]} x conv",), level, "right", width))
        title = f"{self.settings.name}, {self.dims}D, {plan.levels} stages, {plan.sides[0].activation}"
        return Outline(title, tuple(boxes), dict.fromkeys(range(plan.levels - 1), True))

    def built(self) -> dict[str, Any]:
        """Return what is built; the form decides strides and order of what the tensors do not show."""
        return {**super().built(), "form": self.settings.form}


def _units(plan: Plan, held: Held, channels: int, native: bool) -> list[tuple[int, str, int, int, int]]:
    """Return side, name, input and output channels, and channels of the skip of every convolution that is kept."""
    widths, found = plan.widths, []
    if native:
        found.append((0, "stem", channels, widths[0], 0))
    for level, width in enumerate(widths):
        first = 1 if native and level == 0 and not held.residual else 0
        for number in range(first, held.encoder[level]):
            found.append((0, f"down{level}_{number}", widths[max(level - 1, 0)] if number == 0 else width, width, 0))
    for level in range(len(widths) - 2, -1, -1):
        for number in range(held.decoder[level]):
            found.append((1, f"up{level}_{number}", widths[level], widths[level], widths[level] if number == 0 else 0))
    return found
