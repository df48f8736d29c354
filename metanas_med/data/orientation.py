"""Canonical axes: the flips and permutation that bring a scan closest to RAS+, and their exact inverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import io_orientation


@dataclass(frozen=True)
class Orientation:
    """Canonical axis ``i`` is the scan's axis ``axes[i]``, reversed where ``flips[i]``; plain values for JSON."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return a view in canonical axes of an array whose last three axes are the scan's own."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return np.flip(turned, axis=tuple(lead + axis for axis in range(3) if self.flips[axis]))

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Return a view in the scan's own axes of an array whose last three axes are canonical: the exact inverse of apply."""
        lead = array.ndim - 3
        straight = np.flip(array, axis=tuple(lead + axis for axis in range(3) if self.flips[axis]))
        return straight.transpose(*range(lead), *(lead + int(axis) for axis in np.argsort(self.axes)))


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, Orientation]:
    """Return ``(array, affine, orientation)`` with the last three axes closest to RAS+, using only flips and permutations."""
    target, sign = io_orientation(affine).T
    axes = np.argsort(target)
    orientation = Orientation(
        axes=(int(axes[0]), int(axes[1]), int(axes[2])),
        flips=(bool(sign[axes[0]] < 0), bool(sign[axes[1]] < 0), bool(sign[axes[2]] < 0)),
    )
    to_source = np.zeros((4, 4))  # canonical voxel index -> the scan's voxel index
    to_source[3, 3] = 1
    for i, (axis, flipped) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        to_source[axis, i] = -1 if flipped else 1
        to_source[axis, 3] = array.shape[array.ndim - 3 + axis] - 1 if flipped else 0
    return orientation.apply(array), affine @ to_source, orientation
