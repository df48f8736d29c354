"""Orders and directions of axes: the turn that brings a scan closest to RAS+ or a label onto its scan, and the exact inverse."""

from __future__ import annotations

from collections.abc import Sequence
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

    def turned_affine(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return the affine (4, 4) of ``apply(array)`` for an array with ``affine`` whose last three axes have ``shape``."""
        to_source = np.zeros((4, 4))  # turned voxel index -> the scan's voxel index
        to_source[3, 3] = 1
        for i, (axis, flipped) in enumerate(zip(self.axes, self.flips, strict=True)):
            to_source[axis, i] = -1 if flipped else 1
            to_source[axis, 3] = shape[axis] - 1 if flipped else 0
        return affine @ to_source


#: the turn that changes nothing
SAME = Orientation((0, 1, 2), (False, False, False))


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, Orientation]:
    """Return ``(array, affine, orientation)`` with the last three axes closest to RAS+, using only flips and permutations."""
    target, sign = io_orientation(affine).T
    axes = np.argsort(target)
    orientation = Orientation(
        axes=(int(axes[0]), int(axes[1]), int(axes[2])),
        flips=(bool(sign[axes[0]] < 0), bool(sign[axes[1]] < 0), bool(sign[axes[2]] < 0)),
    )
    return orientation.apply(array), orientation.turned_affine(affine, array.shape[-3:]), orientation


def distance(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """Return how far (mm, along one axis) two affines place a corner of a volume of ``shape`` (X, Y, Z) apart, at most."""
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*(np.array(shape) - 1), 1]
    return float(np.abs(corners @ (affine - other).T).max())


def agree(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two affines place each corner of a volume within a tenth of a voxel."""
    return distance(shape, affine, other) <= 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min()


def turn_onto(
    shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other_affine: np.ndarray
) -> Orientation | None:
    """Return the turn that brings a volume of ``other_shape`` into the axes of one of ``shape``; None if their voxels differ.

    The turn follows from the two affines alone: for oblique scans, the closest canonical axes of both may differ by rounding.
    """
    if tuple(shape) == tuple(other_shape) and agree(shape, affine, other_affine):
        return SAME
    signs = np.rint(np.linalg.solve(affine, other_affine)[:3, :3])
    if not ((np.abs(signs).sum(0) == 1).all() and (np.abs(signs).sum(1) == 1).all()):
        return None
    x, y, z = (int(axis) for axis in np.abs(signs).argmax(1))
    turn = Orientation((x, y, z), (bool(signs[0, x] < 0), bool(signs[1, y] < 0), bool(signs[2, z] < 0)))
    if tuple(shape) != tuple(other_shape[axis] for axis in turn.axes):
        return None
    return turn if agree(shape, affine, turn.turned_affine(other_affine, other_shape)) else None
