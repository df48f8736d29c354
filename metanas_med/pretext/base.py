"""What all pretexts share: unlabelled scans, the frame of an episode, content and air, crops that hold something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..data.patches import Volume
from ..data.plan import Triple

SpacingTriple = tuple[float, float, float]

#: voxels that a planned scan needs along each of its first two axes (and along the third, for tasks in three dimensions)
LEAST = 8
#: voxels at a scan's faces that tasks of sorting and turning do not show: what resampling and padding left there would tell which way is out
MARGIN = 1
#: axes are alike where neither their spacings nor the native ones differ by more than this factor
ALIKE = 1.1
#: share of a crop, and of a smaller tile, that has to show something
CROP_CONTENT, TILE_CONTENT = 0.1, 0.3


class TooLittleContent(Exception):
    """A scan shows too little for a crop of the wanted size: nearly all of it is air."""


@dataclass(frozen=True, eq=False)
class Scan:
    """An unlabelled scan on its plan's grid: ``image`` (C, X, Y, Z) float32, ``content`` (X, Y, Z) bool, False in air."""

    name: str
    image: np.ndarray
    content: np.ndarray
    _places: list[np.ndarray] = field(default_factory=list)

    @staticmethod
    def of(name: str, image: np.ndarray) -> Scan:
        """Return the scan of a planned image (C, X, Y, Z), its content told by the image alone."""
        return Scan(name, image, content_of(image))

    def places(self) -> np.ndarray:
        """Return the flat indices of the content's voxels (n,), found once."""
        if not self._places:
            self._places.append(np.flatnonzero(self.content))
        return self._places[0]


@dataclass(frozen=True)
class Frame:
    """What the scans of an episode have in common, in plan order (the coarsest axis last)."""

    shape: Triple  #: of the smallest scan along each axis, voxels
    view: Triple  #: of the plan, cut to ``shape``; volumes have about as many voxels
    spacing: SpacingTriple  #: mm
    natives: tuple[SpacingTriple, ...]  #: mm, of every scan before the plan resampled it
    num_channels: int
    dims: int = 3  #: of the network: 2 looks at slices across the last axis

    @property
    def flat(self) -> bool:
        """Whether tasks stay within slices: a network in 2D, a thin scan, or a last axis that is unlike the others.

        Axes resampled by different factors, in any of the scans, are unlike, too: their noise is correlated differently, and that trace would
        tell them.
        """
        return self.dims == 2 or self.shape[2] < LEAST or not (self.alike(0, 1) and self.alike(0, 2) and self.alike(1, 2))

    @property
    def margin(self) -> Triple:
        """Voxels at a scan's faces that are not shown, along each axis."""
        return (MARGIN, MARGIN, 0 if self.flat else MARGIN)

    def alike(self, one: int, other: int) -> bool:
        """Return whether two axes can be exchanged without a trace."""
        pairs = [(s[one], s[other]) for s in (self.spacing, *self.natives)]
        return all(max(a, b) <= ALIKE * min(a, b) for a, b in pairs)


class Pretext(Protocol):
    """The task of one episode: what is shared by its scans has been drawn, volumes are made scan by scan."""

    names: tuple[str, ...]  #: of the labels 1, 2, ...
    shape: Triple  #: of every volume, voxels

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return an image and its made labels, both of ``shape``; TooLittleContent where the scan is nearly all air."""
        ...


def content_of(image: np.ndarray) -> np.ndarray:
    """Return where (X, Y, Z) any channel of ``image`` (C, X, Y, Z) lies a tenth above the bottom of its range (0.5 to 99.5 %)."""
    content = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        low, high = np.percentile(subsample(channel.reshape(-1)), [0.5, 99.5])
        content |= channel > low + 0.1 * (high - low)
    return content


def subsample(values: np.ndarray, limit: int = 200_000) -> np.ndarray:
    """Return at most ``limit`` of the values (n,), evenly spread."""
    return values[:: -(-len(values) // limit)] if len(values) > limit else values


def draw_crop(
    scan: Scan,
    size: Sequence[int],
    generator: np.random.Generator,
    share: float,
    margin: Sequence[int] = (0, 0, 0),
    tries: int = 30,
) -> Triple:
    """Return the start of a crop of ``size`` that holds at least ``share`` of content and keeps ``margin`` voxels from every face.

    Crops lie around a random voxel of the content, moved by up to half their size. TooLittleContent after ``tries`` that show less.
    """
    places, shape = scan.places(), scan.content.shape
    for _ in range(tries if len(places) else 0):
        voxel = np.unravel_index(places[int(generator.integers(len(places)))], shape)
        start = [
            int(np.clip(int(v) - int(generator.integers(0, s)), m, n - s - m))
            for v, s, n, m in zip(voxel, size, shape, margin, strict=True)
        ]
        if scan.content[box(start, size)].mean() >= share:
            return start[0], start[1], start[2]
    raise TooLittleContent(f"no crop of {' x '.join(map(str, size))} voxels shows {share:.0%} of something in {tries} draws")


def box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the slices of a box of ``size`` voxels that begins at ``start``."""
    x, y, z = (slice(a, a + n) for a, n in zip(start, size, strict=True))
    return x, y, z
