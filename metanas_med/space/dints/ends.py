"""What lies before and behind the grid of blocks: how an image enters its levels, and how its levels become features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..base import Triple
from ..blocks.convolutions import Conv
from ..blocks.mix import mix
from ..blocks.norm import Norm
from ..blocks.operations import Source
from .parts import NativeUnit, Unit, convolution, resize

#: level -> weight (None: 1); levels that are absent are not used
Used = Mapping[int, Tensor | None]


class HouseEnds(nn.ModuleDict):
    """Pooled features of our stem enter the grid; the features of its levels leave it from the coarsest to the finest.

    ``enter`` (level -> 1x1x1 unit, levels 1 and more), ``project`` (1x1x1, to the next finer level), ``norm`` (of each level's feature).
    """

    def __init__(self, widths: Sequence[int], read: Sequence[int], top: int, generator: Generator | None) -> None:
        """Make the parts of levels ``read`` by the first block, and of levels up to ``top``, the coarsest that is written at last."""
        super().__init__()
        self.widths = tuple(widths)
        self["enter"] = nn.ModuleDict({f"{k}": Unit(widths[0], widths[k], (1, 1, 1), generator) for k in read if k})
        self["project"] = nn.ModuleDict({f"{k}": Conv(widths[k], widths[k - 1], (1, 1, 1), generator) for k in range(1, top + 1)})
        self["norm"] = nn.ModuleDict({f"{k}": Norm(widths[k]) for k in range(top + 1)})

    def start(self, x: Tensor, sizes: Sequence[Triple], read: Sequence[int]) -> list[Tensor | None]:
        """Return what the first block reads of each level; None where it reads nothing."""
        found: list[Tensor | None] = [None] * len(sizes)
        for level in read:
            pooled = F.adaptive_avg_pool3d(x, sizes[level]) if level else x
            found[level] = cast(Unit, cast(nn.ModuleDict, self["enter"])[f"{level}"])(Source(pooled)) if level else x
        return found

    def finish(self, outputs: Sequence[Tensor | None], sizes: Sequence[Triple], used: Used) -> list[Tensor | None]:
        """Return the feature of each level that is used, normalised and times its weight; each reads the next coarser one."""
        project, norm = cast(nn.ModuleDict, self["project"]), cast(nn.ModuleDict, self["norm"])
        found: list[Tensor | None] = [None] * len(sizes)
        for level in sorted(used, reverse=True):
            part = outputs[level]
            below = found[level + 1] if level + 1 < len(found) else None
            if below is not None:
                up = resize(project[f"{level + 1}"](Source(below)), sizes[level])
                part = up if part is None else part + up
            if part is not None:
                found[level] = mix(cast(Norm, norm[f"{level}"])(part), used[level])
        return found

    def start_multiply_adds(self, level: int, sizes: Sequence[int]) -> int:
        """Return the multiply-adds of what the first block reads of a level; ``sizes``: voxels of the levels."""
        return self.widths[0] * self.widths[level] * sizes[level] if level else 0

    def finish_multiply_adds(self, level: int, sizes: Sequence[int]) -> int:
        """Return the multiply-adds that the feature of a level takes."""
        return self.widths[level] * self.widths[level - 1] * sizes[level] if level else 0


class NativeStem(nn.Module):
    """From the image, resized to the level above, to a level of the grid: convolution, norm, ReLU, strided convolution, norm."""

    def __init__(self, channels: Sequence[int], size: Triple, generator: Generator | None) -> None:
        """``channels``: of the image, between the convolutions, and of the grid's level."""
        super().__init__()
        self.first = NativeUnit(channels[0], channels[1], size, generator)
        self.second = NativeUnit(channels[1], channels[2], size, generator)

    def forward(self, images: Tensor, above: Triple, stride: Triple) -> Tensor:
        x = F.relu(self.first.norm(self.first.convolve(resize(images, above, True))))
        kernel = cast(Tensor, self.second.kernel)
        return self.second.norm(convolution(x, kernel, stride))


class NativeEnds(nn.ModuleDict):
    """Four stems resize the image to the levels of the grid, and four tails add its levels up, to one feature at full resolution.

    Levels of the grid have half the resolution of the level of the image at which they are read and written. All stems and tails are
    there whatever the architecture is, as in the authors' network, but only those of levels that are read and written run.
    """

    def __init__(self, channels: Sequence[int], num_channels: int, dims: int, generator: Generator | None) -> None:
        """``channels``: at full resolution and at each level of the grid."""
        super().__init__()
        size: Triple = (3, 3, 3 if dims == 3 else 1)
        self.widths, self.num_channels, self.taps = tuple(channels), num_channels, math.prod(size)
        self.stride: Triple = (2, 2, 1 if dims == 2 else 2)
        for level, (own, below) in enumerate(zip(channels, channels[1:], strict=False)):
            self[f"stem{level}"] = NativeStem((num_channels, own, below), size, generator)
            self[f"tail{level}"] = NativeUnit(below, own, size, generator)
        self["last"] = NativeUnit(channels[0], channels[0], size, generator)

    def start(self, images: Tensor, sizes: Sequence[Triple], read: Sequence[int]) -> list[Tensor | None]:
        """Return what the first block reads of each level; ``sizes``: of the image, and of each level of the grid."""
        found: list[Tensor | None] = [None] * (len(sizes) - 1)
        for level in read:
            found[level] = self[f"stem{level}"](images, sizes[level], self.stride)
        return found

    def finish(self, outputs: Sequence[Tensor | None], sizes: Sequence[Triple], used: Used) -> list[Tensor | None]:
        """Return one feature at full resolution, or None where nothing arrives; tails are weighed by ``used``."""
        x: Tensor | None = None
        for level in sorted(used, reverse=True):
            part = outputs[level]
            part = x if part is None else part if x is None else part + x
            x = None if part is None else resize(mix(self[f"tail{level}"](Source(part)), used[level]), sizes[level], True)
        return [None if x is None else self["last"](Source(x))]

    def start_multiply_adds(self, level: int, sizes: Sequence[int]) -> int:
        """Return the multiply-adds of a stem; ``sizes``: voxels of the image, and of each level of the grid."""
        own, below = self.widths[level : level + 2]
        return self.taps * own * (self.num_channels * sizes[level] + below * sizes[level + 1])

    def finish_multiply_adds(self, level: int, sizes: Sequence[int]) -> int:
        """Return the multiply-adds of a tail, and behind the finest one of the last block."""
        own, below = self.widths[level : level + 2]
        return self.taps * own * (below * sizes[level + 1] + (0 if level else own * sizes[0]))
