"""Mosaics: a volume of 2 x 2 x 2 (or 2 x 2 x 1) tiles, each with its own class, which makes a classification task dense.

A single class per volume would not need a decoder. Head rows solved on half of an episode's volumes would also lack the
classes of the other half. In a mosaic every view contains several classes, and each voxel has to predict the class of its own
tile. So the features of all decoder levels matter, and the decoder's alphas have a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.plan import Triple
from .base import TILE_CONTENT, Frame, Scan, box, draw_crop


@dataclass(frozen=True)
class Tile:
    """A tile's place in its scan, in voxels, and its class."""

    start: Triple
    kind: int


class Mosaic:
    """The geometry of an episode's mosaics: a ``grid`` of cells with tiles of size ``side``, equal along all axes that rotate."""

    def __init__(self, frame: Frame) -> None:
        self.margin = frame.margin
        free = [n - 2 * m for n, m in zip(frame.shape, self.margin, strict=True)]
        if frame.flat:
            x, y, depth = frame.view
            side = min(int((x * y) ** 0.5) // 2, *free[:2])
            self.side, self.grid = (side, side, depth), (2, 2, 1)
        else:
            side = min(int(round(float(np.prod(frame.view)) ** (1 / 3), 6)) // 2, *free)
            self.side, self.grid = (side, side, side), (2, 2, 2)
        x, y, z = (n * s for n, s in zip(self.grid, self.side, strict=True))
        self.shape: Triple = (x, y, z)

    @property
    def cells(self) -> list[tuple[slice, slice, slice]]:
        """The cells of the grid, as slices of the volume."""
        return [box(np.multiply(place, self.side).tolist(), self.side) for place in np.ndindex(*self.grid)]

    def draw(self, scan: Scan, num_kinds: int, generator: np.random.Generator) -> list[Tile]:
        """Return a tile for each cell, cut at random from the content; every class occurs in at least one cell.

        Raises TooLittleContent if the scan is nearly all air.
        """
        number = len(self.cells)
        kinds = [k % num_kinds if k < num_kinds else int(generator.integers(num_kinds)) for k in range(number)]
        order = generator.permutation(number)
        starts = [draw_crop(scan, self.side, generator, TILE_CONTENT, self.margin) for _ in range(number)]
        return [Tile(start, kinds[int(i)]) for start, i in zip(starts, order, strict=True)]

    def lay(self, tiles: Sequence[np.ndarray], kinds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the image (C, X, Y, Z) and the label map (X, Y, Z) uint8, given one tile (C, x, y, z) per cell."""
        image = np.empty((tiles[0].shape[0], *self.shape), dtype=np.float32)
        label = np.empty(self.shape, dtype=np.uint8)
        for cell, tile, kind in zip(self.cells, tiles, kinds, strict=True):
            image[(slice(None), *cell)] = tile
            label[cell] = kind
        return image, label
