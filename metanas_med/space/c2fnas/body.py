"""The network of C2FNAS: cells on a U, each one operation between 1x1x1 convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..additive import additive_multiply_adds
from ..base import Body, Box, Outline, Picks, SearchSpace, Triple, fit_strides, level_sizes
from ..blocks.instance import NormedAct, instance
from ..blocks.mixture import Mixture
from ..blocks.norm import SLOPE, Norm
from ..blocks.operations import Candidate, Source, build_candidate, fold, unfold
from ..choice import Choice
from ..counting import candidate_multiply_adds
from .topology import Place


class Cell(nn.ModuleDict):
    """1x1x1 of each input, summed; activation, operation, norm; 1x1x1. Inputs: ``first``, ``back`` or ``up`` (the level below)."""

    def __init__(
        self,
        place: Place,
        widths: Sequence[int],
        names: Sequence[str],
        dims: int,
        native: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        width = widths[place.level]
        self.native, self.joins = native, place.joins
        self["first"] = build_candidate("conv111", width, width, dims, generator)
        if place.reads_back:
            self["back"] = build_candidate("conv111", width, width, dims, generator)
        if place.joins:
            self["up"] = build_candidate("conv111", widths[place.level + 1], width, dims, generator)
        self["op"] = Mixture(names, width, width, dims, generator)
        self["norm"] = NormedAct(width) if native else Norm(width)
        self["out"] = build_candidate("conv111", width, width, dims, generator)

    def forward(self, x: Tensor, other: Tensor | None, choice: Choice, row: str) -> Tensor:
        """Return (B, w, X, Y, Z) of ``x`` (the same shape) and ``other``: the output two before, or that of the level below."""
        total = cast(Candidate, self["first"])(Source(x))
        if other is not None:
            total = total + (self._up(other, x.shape[2:]) if self.joins else cast(Candidate, self["back"])(Source(other)))
        inside = F.relu(total) if self.native else F.leaky_relu(total, SLOPE)
        inside = cast(Mixture, self["op"])(Source(inside), choice, row)
        norm = self["norm"]
        inside = norm(inside, "none") if self.native else norm(inside)
        return cast(Candidate, self["out"])(Source(inside))

    def _up(self, x: Tensor, size: Sequence[int]) -> Tensor:
        conv = cast(Candidate, self["up"])
        if not self.native:  # nearest: trilinear upsampling costs as much as a convolution
            return F.interpolate(conv(Source(x)), size=tuple(size), mode="nearest")
        high = F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=False)
        return instance(conv(Source(F.relu(high))))


class Step(nn.ModuleDict):
    """A strided 3x3x3 convolution to the next level; native: activation first, norm last; house: our norm with its activation last."""

    def __init__(self, cin: int, cout: int, dims: int, native: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        self.native = native
        self["conv"] = build_candidate("conv331" if dims == 2 else "conv333", cin, cout, dims, generator)
        self["norm"] = NormedAct(cout) if native else Norm(cout)

    def forward(self, x: Tensor, stride: Triple) -> Tensor:
        if not self.native:
            return self["norm"](cast(Candidate, self["conv"])(Source(x, stride)))
        return self["norm"](cast(Candidate, self["conv"])(Source(F.relu(x), stride)), "none")


class Ends(nn.ModuleDict):
    """The native stem and tail: half the width at full size. ``two``: some topology has two cells at the end of level 0."""

    def __init__(self, channels: int, width: int, dims: int, two: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        name, half = "conv331" if dims == 2 else "conv333", max(1, width // 2)
        shapes = {"stem": (channels, half), "stride": (half, width), "last": (width, width), "full": (width, half)}
        if two:
            shapes["before"] = (width, width)
        for part, (cin, cout) in shapes.items():
            self[part] = build_candidate(name, cin, cout, dims, generator)
            if part != "before":
                self[f"{part}_norm"] = NormedAct(cout)

    def enter(self, x: Tensor, stride: Triple) -> Tensor:
        """Return level 0 of images: two convolutions, the second strided."""
        x = self["stem_norm"](cast(Candidate, self["stem"])(Source(x)), "relu")
        return self["stride_norm"](cast(Candidate, self["stride"])(Source(x, stride)), "none")

    def leave(self, last: Tensor, before: Tensor | None, size: Sequence[int]) -> Tensor:
        """Return the feature at full size of the last cell, and of the one before it where that is of level 0, too."""
        x = cast(Candidate, self["last"])(Source(F.relu(last)))
        if before is not None:
            x = x + cast(Candidate, self["before"])(Source(F.relu(before)))
        x = F.interpolate(self["last_norm"](x, "relu"), size=tuple(size), mode="trilinear", align_corners=False)
        return self["full_norm"](cast(Candidate, self["full"])(Source(x)), "relu")


class C2FNASBody(Body):
    """Cells on a U. The supernet has the cells of every topology if that is searched, and runs those of its own."""

    def __init__(
        self,
        space: SearchSpace,
        topology: Sequence[Place],
        kept: Sequence[tuple[Place, tuple[str, ...]]],
        picks: Picks | None,
        generator: torch.Generator | None = None,
    ) -> None:
        """``topology``: the place of each cell that is run; ``kept``: every cell that has weights, and its candidates."""
        settings = space.settings
        native, widths = settings.form == "native", settings.cell_widths
        super().__init__(space, picks)
        self.native, self.topology, self.cell_widths = native, tuple(topology), widths
        self.takes_images = native
        if native:
            two = any(place == Place("up", 0, 1) for place, _ in kept) or len(widths) == 1 < len(kept)
            self.ends = Ends(settings.num_channels, widths[0], self.dims, two, generator)
        self.cells = nn.ModuleDict(
            {place.name: Cell(place, widths, names, self.dims, native, generator) for place, names in kept}
        )
        self.steps = nn.ModuleDict(
            {
                f"down{level}": Step(widths[level - 1], widths[level], self.dims, native, generator)
                for level in range(1, len(widths))
            }
        )

    def decoder(self) -> frozenset[str]:
        """Return the names of the weights of the way up and of the native tail."""
        tails = ("ends.last", "ends.before", "ends.full")
        return frozenset(n for n in self.weights() if n.startswith(("cells.up", *tails)))

    def classifier(self, num_classes: int) -> nn.Module:
        """Return the native form's last layer: a 1x1x1 convolution without bias."""
        return Last(self.widths[0], num_classes)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level in house: (B, widths[l], X_l, Y_l, Z_l); in native form one of full size: (B, widths[0], X, Y, Z).

        ``x``: (B, widths[0], X, Y, Z) in house; images (B, num_channels, X, Y, Z) in native form, which reads no ``strides``.
        """
        choice, batch, levels = self.choose(), x.shape[0], len(self.cell_widths)
        own = [(2, 2, 2)] * levels if self.native else strides
        steps = fit_strides(levels + 1 if self.native else levels, self.dims, own)
        size = x.shape[2:]
        if self.dims == 2:  # slices across the coarsest axis become samples
            size, x = (*size[:2], 1), fold(x)
        if self.native:
            x = self.ends.enter(x, steps.pop(0))
        outputs = self._run(x, steps, choice)
        if self.native:
            features = [self.ends.leave(outputs[-1], self._before(outputs), size)]
        else:
            last = {place.level: x for place, x in zip(self.topology, outputs[1:], strict=True)}
            features = [last[level] for level in range(levels)]
        return [unfold(f, batch) for f in features] if self.dims == 2 else features

    def _before(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Return the output of the last cell but one where it is of the same level and side as the last one."""
        if len(self.topology) < 2:
            return None
        last, before = self.topology[-1], self.topology[-2]
        return outputs[-2] if (last.side, last.level) == (before.side, before.level) else None

    def _run(self, x: Tensor, steps: Sequence[Triple], choice: Choice) -> list[Tensor]:
        """Return the stem's output and that of every cell in turn."""
        outputs, skips = [x], dict[int, Tensor]()
        for index, place in enumerate(self.topology):
            x, other = outputs[-1], None
            if place.joins:
                x, other = skips[place.level], x
            elif place.side == "down" and place.number == 0 and place.level:
                x = cast(Step, self.steps[f"down{place.level}"])(x, steps[place.level - 1])
            elif place.reads_back:
                other = outputs[-2]
            outputs.append(cast(Cell, self.cells[place.name])(x, other, choice, f"cell{index}/op"))
            if place.side == "down":
                skips[place.level] = outputs[-1]
        return outputs

    def expected_multiply_adds(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean multiply-adds of one sample over operations drawn from the alphas: a scalar with gradients."""
        levels = len(self.cell_widths)
        own = fit_strides(levels + 1, self.dims, [(2, 2, 2)] * levels) if self.native else fit_strides(levels, self.dims, strides)
        sizes = level_sizes(shape, own)[1 if self.native else 0 :]
        rows, costs = self.space.rows(), {}
        for index, place in enumerate(self.topology):
            width, row = self.cell_widths[place.level], f"cell{index}/op"
            if row in rows:  # in 2D there is none
                found = [
                    candidate_multiply_adds(name, width, width, 3, sizes[place.level], (1, 1, 1)) for name in rows[row].options
                ]
                costs[row] = [float(count) for count in found]
        return additive_multiply_adds(self, shape, strides, costs)

    def outline(self) -> Outline:
        """Return a U of cells with their operations."""
        rows, picks = self.space.rows(), self.picks or {}
        lines: dict[tuple[str, int], list[str]] = {}
        for index, place in enumerate(self.topology):
            row = f"cell{index}/op"
            op = rows[row].options[picks[row]] if row in picks else "conv331" if self.dims == 2 else "mixed"
            lines.setdefault((place.side, place.level), []).append(f"cell{index}: {op}")
        boxes = tuple(
            Box(f"{side}{level}", tuple(text), level, "left" if side == "down" else "right", self.cell_widths[level])
            for (side, level), text in lines.items()
        )
        skips = dict.fromkeys(range(len(self.cell_widths) - 1), True)
        return Outline(f"{self.settings.name}, {self.dims}D, {len(self.topology)} cells", boxes, skips)

    def built(self) -> dict[str, Any]:
        """Return what is built; the form decides strides and norms that the tensors do not show."""
        return {**super().built(), "form": self.settings.form, "topology": [place.name for place in self.topology]}


class Last(nn.Module):
    """A 1x1x1 convolution without bias: features of one level to logits (B, num_classes, X, Y, Z)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, num_classes, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of the first feature."""
        return self.conv(features[0])
