"""``rotation``: predict the rotation of each tile (Gidaris et al. 2018, arXiv 1803.07728; UnNAS, arXiv 2003.12056).

In volumes whose axes are all alike there are 24 orientations (the proper rotations of a cube); else the quarter turns and
flips within a slice (UnNAS, Liu et al. 2020, section 3.1). Tiles are cubes (or square slabs) and rotate by exchanging and
reversing axes: nothing is interpolated, and the shape of a tile does not reveal its rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import torch

from ..data.patches import Volume
from .base import Frame, Scan, box
from .mosaic import Mosaic, Tile
from .registry import register_pretext
from .settings import PretextSettings


@dataclass(frozen=True)
class Orientation:
    """New axis i is old axis ``axes[i]``, reversed where ``flips[i]``."""

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @property
    def name(self) -> str:
        return " ".join(("-" if flip else "") + "xyz"[axis] for axis, flip in zip(self.axes, self.flips, strict=True))

    @property
    def is_proper(self) -> bool:
        """Whether this is a rotation and not a reflection."""
        matrix = np.eye(3)[list(self.axes)] * np.where(self.flips, -1.0, 1.0)[:, None]
        return float(np.linalg.det(matrix)) > 0

    def turn(self, image: np.ndarray) -> np.ndarray:
        """Return an image (C, X, Y, Z) in this orientation, without interpolation."""
        return np.flip(image.transpose(0, *(a + 1 for a in self.axes)), tuple(i + 1 for i, flip in enumerate(self.flips) if flip))

    def undo(self, image: np.ndarray) -> np.ndarray:
        """Return the image that was passed to ``turn``."""
        back = np.flip(image, tuple(i + 1 for i, flip in enumerate(self.flips) if flip))
        return back.transpose(0, *(int(a) + 1 for a in np.argsort(self.axes)))


def orientations(frame: Frame) -> list[Orientation]:
    """Return the orientations that leave no trace in scans of ``frame``, the upright one first.

    There are 24 if all axes are alike; in flat tasks eight turns and flips within a slice, or four flips if its axes differ.
    """
    every = [Orientation(a, f) for a in permutations(range(3)) for f in product((False, True), repeat=3)]
    if not frame.flat:
        return [o for o in every if o.is_proper]
    return [
        o for o in every if o.axes[2] == 2 and not o.flips[2] and all(i == a or frame.alike(i, a) for i, a in enumerate(o.axes))
    ]


@register_pretext("rotation", source="Gidaris et al. 2018, arXiv 1803.07728")
class Rotation:
    """Mosaics of rotated tiles; the label is the rotation, 0 for upright. An episode uses a random subset of the rotations."""

    def __init__(self, settings: PretextSettings, frame: Frame, generator: np.random.Generator) -> None:
        self.mosaic = Mosaic(frame)
        self.shape = self.mosaic.shape
        upright, *others = orientations(frame)
        number = min(settings.classes, len(self.mosaic.cells), len(others) + 1)
        chosen = [others[int(i)] for i in generator.permutation(len(others))[: number - 1]]
        self.turns = (upright, *chosen)
        self.names = tuple(turn.name for turn in chosen)

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a mosaic of ``scan`` and, for each voxel, the rotation of its tile."""
        return self.paint(scan, self.mosaic.draw(scan, len(self.turns), generator))

    def paint(self, scan: Scan, tiles: list[Tile]) -> Volume:
        """Return the mosaic of given tiles: image (C, X, Y, Z), labels 0 (upright), 1, ..."""
        cut = [self.turns[t.kind].turn(scan.image[(slice(None), *box(t.start, self.mosaic.side))]) for t in tiles]
        image, label = self.mosaic.lay(cut, [t.kind for t in tiles])
        return Volume(scan.name, torch.from_numpy(image), torch.from_numpy(label))
