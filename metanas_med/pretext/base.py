"""What all pretexts share: unlabelled scans, the frame of an episode, content and air, and crops with enough content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..data.patches import Volume
from ..data.plan import Triple
from ..tasks.episode import Episode

SpacingTriple = tuple[float, float, float]

#: voxels that a planned scan needs along each of its first two axes (and along the third, for tasks in three dimensions)
LEAST = 8
#: voxels at a scan's faces that jigsaw and mosaics do not show: traces of resampling and padding would reveal directions
MARGIN = 1
#: two axes count as alike if neither their spacings nor their native spacings differ by more than this factor
ALIKE = 1.1
#: share of a crop, and of a smaller tile, that must be content
CROP_CONTENT, TILE_CONTENT = 0.1, 0.3


class TooLittleContent(Exception):
    """A scan has too little content for a crop of the requested size: nearly all of it is air."""


@dataclass(frozen=True, eq=False)
class Scan:
    """An unlabelled scan on its plan's grid: ``image`` (C, X, Y, Z) float32, ``content`` (X, Y, Z) bool, False in air."""

    name: str
    image: np.ndarray
    content: np.ndarray
    _places: list[np.ndarray] = field(default_factory=list)

    @staticmethod
    def of(name: str, image: np.ndarray) -> Scan:
        """Return the scan of a planned image (C, X, Y, Z); its content is derived from the image alone."""
        return Scan(name, image, content_of(image))

    def places(self) -> np.ndarray:
        """Return the flat indices of the content's voxels (n,), computed once."""
        if not self._places:
            self._places.append(np.flatnonzero(self.content))
        return self._places[0]


@dataclass(frozen=True)
class Frame:
    """What the scans of an episode have in common, in plan order (the coarsest axis last)."""

    shape: Triple  #: the smallest size among the scans along each axis, voxels
    view: Triple  #: the plan's view, limited to ``shape``; volumes have about as many voxels
    spacing: SpacingTriple  #: mm
    natives: tuple[SpacingTriple, ...]  #: mm, of every scan before resampling
    num_channels: int
    dims: int = 3  #: of the network; 2 means slices across the last axis

    @property
    def flat(self) -> bool:
        """Whether tasks stay within slices: for a 2D network, for a thin scan, or if the axes are not alike.

        Axes that were resampled by different factors, in any scan, are not alike either: their noise is correlated
        differently, which would reveal them.
        """
        return self.dims == 2 or self.shape[2] < LEAST or not (self.alike(0, 1) and self.alike(0, 2) and self.alike(1, 2))

    @property
    def margin(self) -> Triple:
        """The number of voxels at a scan's faces that are not shown, along each axis."""
        return (MARGIN, MARGIN, 0 if self.flat else MARGIN)

    def alike(self, one: int, other: int) -> bool:
        """Return whether exchanging two axes leaves no trace."""
        pairs = [(s[one], s[other]) for s in (self.spacing, *self.natives)]
        return all(max(a, b) <= ALIKE * min(a, b) for a, b in pairs)


class Pretext(Protocol):
    """The task of one episode: parameters shared by all its scans are drawn once; then each scan gives a volume."""

    names: tuple[str, ...]  #: of the labels 1, 2, ...
    shape: Triple  #: of every volume, voxels

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return an image and its generated labels, both of ``shape``; raises TooLittleContent if the scan is nearly all air."""
        ...


class EpisodeMaker(Protocol):
    """A pretext that makes whole episodes without a scan; it is built once a run."""

    def draw(self, generator: np.random.Generator) -> Episode:
        """Return a random episode without a query; it depends only on the generator, not on earlier draws."""
        ...


def content_of(image: np.ndarray) -> np.ndarray:
    """Return a mask (X, Y, Z): any channel of ``image`` (C, X, Y, Z) is above a tenth of its range (percentiles 0.5 to 99.5)."""
    content = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        low, high = np.percentile(subsample(channel.reshape(-1)), [0.5, 99.5])
        content |= channel > low + 0.1 * (high - low)
    return content


def subsample(values: np.ndarray, limit: int = 200_000) -> np.ndarray:
    """Return at most ``limit`` of the values (n,), evenly spaced."""
    return values[:: -(-len(values) // limit)] if len(values) > limit else values


def draw_crop(
    scan: Scan,
    size: Sequence[int],
    generator: np.random.Generator,
    share: float,
    margin: Sequence[int] = (0, 0, 0),
    tries: int = 30,
) -> Triple:
    """Return the start of a random crop of ``size`` with at least ``share`` content and ``margin`` voxels from every face.

    A crop contains a random voxel of the content at a random position. Raises TooLittleContent after ``tries`` failed draws.
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
    raise TooLittleContent(f"no crop of {' x '.join(map(str, size))} voxels had {share:.0%} content in {tries} draws")


def box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the slices of a box of ``size`` voxels that starts at ``start``."""
    x, y, z = (slice(a, a + n) for a, n in zip(start, size, strict=True))
    return x, y, z
