"""The network of V-NAS: residual bottleneck blocks down, blocks with a skip up, pyramid volumetric pooling at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..additive import additive_multiply_adds
from ..base import Body, Box, Outline, Picks, SearchSpace, Triple, fit_strides, level_sizes
from ..blocks.instance import NormedAct
from ..blocks.mixture import Mixture
from ..blocks.operations import Candidate, Source, build_candidate, conv3d, fold, padding_of, times, unfold
from ..choice import Choice
from ..counting import candidate_multiply_adds

#: the convolutions of an option, by the names of candidates
PARTS = {"2d": ("conv331",), "3d": ("conv333",), "p3d": ("conv331", "conv113")}


class Operation(nn.Module):
    """One option of a block: each of its convolutions is followed by a norm and an activation."""

    def __init__(self, kind: str, width: int, dims: int, activation: str, generator: torch.Generator | None) -> None:
        super().__init__()
        names = PARTS[kind]
        self.activation = activation
        self.convs = nn.ModuleList(build_candidate(name, width, width, dims, generator) for name in names)
        self.norms = nn.ModuleList(NormedAct(width) for _ in names)

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        """Return (B, w, X', Y', Z') with channel c times ``scale[c]``; the stride along Z belongs to the last convolution."""
        sx, sy, sz = source.stride
        if len(self.convs) == 2:
            source = Source(self.norms[0](self.convs[0](Source(source.x, (sx, sy, 1))), self.activation), (1, 1, sz))
        return times(self.norms[-1](self.convs[-1](source), self.activation), scale)


def operations(kinds: Sequence[str], width: int, dims: int, activation: str, generator: torch.Generator | None) -> Mixture:
    """Return the mixed operation of one block."""
    return Mixture.of({kind: Operation(kind, width, dims, activation, generator) for kind in kinds})


class Bottleneck(nn.ModuleDict):
    """1x1x1 convolution, the searched operation, 1x1x1 convolution; plus the input. ``project``: the input has other channels or size."""

    def __init__(
        self,
        widths: tuple[int, int, int],
        project: bool,
        kinds: Sequence[str],
        dims: int,
        activation: str,
        generator: torch.Generator | None,
    ) -> None:
        """``widths``: channels of input, operation and output."""
        super().__init__()
        cin, inside, cout = widths
        self.activation = activation
        for name, before, after in (
            ("reduce", cin, inside),
            ("expand", inside, cout),
            *((("project", cin, cout),) if project else ()),
        ):
            self[name] = build_candidate("conv111", before, after, dims, generator)
            self[f"{name}_norm"] = NormedAct(after)
        self["op"] = operations(kinds, inside, dims, activation, generator)

    def forward(self, x: Tensor, stride: Triple, choice: Choice, row: str) -> Tensor:
        inside = self["reduce_norm"](cast(Candidate, self["reduce"])(Source(x)), self.activation)
        inside = cast(Mixture, self["op"])(Source(inside, stride), choice, row)
        inside = self["expand_norm"](cast(Candidate, self["expand"])(Source(inside)), "none")
        if "project" in self:
            x = self["project_norm"](cast(Candidate, self["project"])(Source(x, stride)), "none")
        return self["expand_norm"].act(inside + x, self.activation)  # type: ignore[operator]


class Join(nn.ModuleDict):
    """A block of the decoder: the level below and the skip as 1x1x1 convolutions, summed; then the searched operation."""

    def __init__(
        self, below: int, skip: int, width: int, kinds: Sequence[str], dims: int, native: bool, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.native = native
        self["below"] = build_candidate("conv111", below, width, dims, generator)
        self["skip"] = build_candidate("conv111", skip, width, dims, generator)
        self["op"] = operations(kinds, width, dims, "relu" if native else "leaky_relu", generator)

    def forward(self, x: Tensor, skip: Tensor, choice: Choice, row: str) -> Tensor:
        low = cast(Candidate, self["below"])(Source(x))
        total = cast(Candidate, self["skip"])(Source(skip)) + resize(low, skip.shape[2:], self.native)
        return cast(Mixture, self["op"])(Source(total), choice, row)


class Pyramid(nn.ModuleDict):
    """Pyramid volumetric pooling: max pools in the plane, each as one channel at full size, next to the input."""

    def __init__(self, width: int, pools: Sequence[int], dims: int, native: bool, generator: torch.Generator | None) -> None:
        super().__init__({f"pool{size}": build_candidate("conv111", width, 1, dims, generator) for size in pools})
        self.pools, self.native = tuple(pools), native

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C + pools, X, Y, Z); a pool is no larger than the map."""
        found = [x]
        for pool in self.pools:
            size = (min(pool, x.shape[2]), min(pool, x.shape[3]), 1)
            small = F.max_pool3d(x, size, size, ceil_mode=True)
            found.append(resize(cast(Candidate, self[f"pool{pool}"])(Source(small)), x.shape[2:], self.native))
        return torch.cat(found, 1)


def resize(x: Tensor, size: Sequence[int], smooth: bool) -> Tensor:
    """Return (B, C, *size): trilinear, or the nearest voxel."""
    if smooth:
        return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=False)
    return F.interpolate(x, size=tuple(size), mode="nearest")


class VNASBody(Body):
    """Encoder, decoder and pyramid. A discrete body has one operation a block."""

    def __init__(self, space: SearchSpace, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        super().__init__(space, picks)
        s, rows, dims = space.settings, space.rows(), self.dims
        self.native = native = s.form == "native"
        self.takes_images, self.counts = native, s.counts
        activation = "relu" if native else "leaky_relu"

        def kinds(row: str) -> tuple[str, ...]:
            if row not in rows:
                return ("2d",)
            return rows[row].options if picks is None else (rows[row].options[picks[row]],)

        inside, outside, up = s.inside, s.outside, s.up_widths
        self.stem = Stem(s.num_channels, s.base_width, dims, generator) if native else None
        self.blocks = nn.ModuleDict()
        before = s.base_width if native else outside[0]
        for level, count in enumerate(s.counts):
            for number in range(count):
                project = number == 0 and (native or level > 0)
                name, widths = f"down{level}_{number}", (before, inside[level], outside[level])
                self.blocks[name] = Bottleneck(widths, project, kinds(name), dims, activation, generator)
                before = outside[level]
        for level in range(s.levels - 2, -1, -1):
            self.blocks[f"up{level}"] = Join(before, outside[level], up[level], kinds(f"up{level}"), dims, native, generator)
            before = up[level]
        if native:
            self.blocks["up_stem"] = Join(before, s.base_width, s.base_width, kinds("up_stem"), dims, True, generator)
            before = s.base_width
        self.pyramid = Pyramid(before, s.pool_sizes, dims, native, generator)
        if not native:
            self.last = build_candidate("conv111", before + len(s.pool_sizes), before, dims, generator)
            self.last_norm = NormedAct(before)

    def decoder(self) -> frozenset[str]:
        """Return the names of the weights of the way up and of what follows."""
        return frozenset(n for n in self.weights() if n.startswith(("blocks.up", "pyramid", "last")))

    def classifier(self, num_classes: int) -> nn.Module:
        """Return the native form's last layer: a 1x1x1 convolution with bias."""
        return Last(self.widths[0], num_classes)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level in house: (B, widths[l], X_l, Y_l, Z_l); in native form one of full size: (B, widths[0], X, Y, Z).

        ``x``: (B, widths[0], X, Y, Z) in house; images (B, num_channels, X, Y, Z) in native form, which reads no ``strides``.
        """
        choice, batch, levels = self.choose(), x.shape[0], len(self.counts)
        steps = fit_strides(levels, self.dims, [(2, 2, 2)] * levels if self.native else strides)
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        size, first = x.shape[2:], x
        if self.stem is not None:
            first, x = self.stem(x)
        encoded: list[Tensor] = []
        for level, count in enumerate(self.counts):
            for number in range(count):
                stride: Triple = steps[level - 1] if level and number == 0 else (1, 1, 1)
                x = cast(Bottleneck, self.blocks[f"down{level}_{number}"])(x, stride, choice, f"down{level}_{number}")
            encoded.append(x)
        features = [x]
        for level in range(levels - 2, -1, -1):
            features.append(x := cast(Join, self.blocks[f"up{level}"])(x, encoded[level], choice, f"up{level}"))
        if self.stem is not None:
            x = cast(Join, self.blocks["up_stem"])(x, first, choice, "up_stem")
            features = [self.pyramid(resize(x, size, True))]
        else:
            features[-1] = self.last_norm(self.last(Source(self.pyramid(features[-1]))), "leaky_relu")
        if self.dims == 2:
            features = [unfold(f, batch) for f in features]
        return features[::-1]

    def expected_multiply_adds(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean multiply-adds of one sample over operations drawn from the alphas: a scalar with gradients."""
        levels = len(self.counts)
        steps = fit_strides(levels, self.dims, [(2, 2, 2)] * levels if self.native else strides)
        start = level_sizes(shape, [(2, 2, 2)] * (2 if self.native else 0))
        sizes, s, costs = level_sizes(start[-1], steps), self.settings, {}
        for row in self.space.rows():
            side, _, number = row.partition("_")
            if row == "up_stem":
                width, size, stride = s.base_width, start[1], (1, 1, 1)
            elif side.startswith("up"):
                level = int(side[2:])
                width, size, stride = s.up_widths[level], sizes[level], (1, 1, 1)
            else:
                level = int(side[4:])
                stepped = level > 0 and number == "0"
                width, stride = s.inside[level], steps[level - 1] if stepped else (1, 1, 1)
                size = sizes[level - 1] if stepped else sizes[level]
            costs[row] = [_cost(kind, width, size, stride) for kind in self.space.rows()[row].options]
        return additive_multiply_adds(self, shape, strides, costs)

    def outline(self) -> Outline:
        """Return a U of blocks with their operations."""
        rows, picks, s = self.space.rows(), self.picks or {}, self.settings
        lines: dict[str, list[str]] = {}
        for name in self.blocks:
            shown = rows[name].options[picks[name]] if name in picks else "2d" if self.dims == 2 else "mixed"
            lines.setdefault(name.partition("_")[0] if name.startswith("down") else name, []).append(f"{name}: {shown}")
        boxes = []
        for name, text in lines.items():
            level = 0 if name == "up_stem" else int(name.removeprefix("down").removeprefix("up"))
            width = s.base_width if name == "up_stem" else s.outside[level] if name.startswith("down") else s.up_widths[level]
            boxes.append(Box(name, tuple(text), level, "left" if name.startswith("down") else "right", width))
        skips = dict.fromkeys(range(s.levels - 1), True)
        return Outline(f"{s.name}, {self.dims}D, {s.levels} levels", tuple(boxes), skips)

    def built(self) -> dict[str, Any]:
        """Return what is built; the form decides strides that the tensors do not show."""
        return {**super().built(), "form": self.settings.form, "pools": list(self.settings.pool_sizes)}


class Stem(nn.Module):
    """A strided 7x7x3 convolution (7x7x1 in 2D), norm, ReLU, and a strided 3x3x3 max pool."""

    def __init__(self, channels: int, width: int, dims: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.depth = 1 if dims == 2 else 3
        self.weight = nn.Parameter(torch.empty(width, channels, 7, 7, self.depth))
        if not self.weight.is_meta:
            with torch.no_grad():
                self.weight.normal_(0.0, (self.weight[0].numel()) ** -0.5, generator=generator)
        self.norm = NormedAct(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, w, X / 2, Y / 2, Z / 2), and that pooled by 2; sizes round up."""
        stride = (2, 2, 1 if self.depth == 1 else 2)
        x = self.norm(conv3d(x, self.weight, None, stride, padding_of(self.weight.shape[2:])), "relu")
        return x, F.max_pool3d(x, (3, 3, self.depth), stride, (1, 1, self.depth // 2))


class Last(nn.Module):
    """A 1x1x1 convolution with bias: features of one level to logits (B, num_classes, X, Y, Z)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of the first feature."""
        return self.conv(features[0])


def _cost(kind: str, width: int, size: Triple, stride: Triple) -> float:
    """Return the multiply-adds of one option on a volume of ``size``."""
    if kind != "p3d":
        return float(candidate_multiply_adds(PARTS[kind][0], width, width, 3, size, stride))
    first, last = (stride[0], stride[1], 1), (1, 1, stride[2])
    after = level_sizes(size, [first])[1]
    return float(
        candidate_multiply_adds("conv331", width, width, 3, size, first)
        + candidate_multiply_adds("conv113", width, width, 3, after, last)
    )
