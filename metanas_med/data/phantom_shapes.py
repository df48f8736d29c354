"""Implicit shapes of the phantom organs: functions of points that are negative inside.

Points are ``(3, X, Y, Z)`` in body units: x to the right, y to the front, z up, the body about one unit in radius.
Each shape returns a field ``(X, Y, Z)`` that is near a signed distance close to its surface.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]
Triple = tuple[float, float, float]

#: Low-order real spherical harmonics (degrees 2 and 3) without their constants, as polynomials of the unit direction.
_HARMONICS = (
    lambda x, y, z: 2 * x * y,
    lambda x, y, z: 2 * y * z,
    lambda x, y, z: 2 * x * z,
    lambda x, y, z: x * x - y * y,
    lambda x, y, z: 1.5 * z * z - 0.5,
    lambda x, y, z: 5 * x * y * z,
    lambda x, y, z: x * (x * x - 3 * y * y),
)


def _relative(points: Field, centre: Triple) -> Field:
    return points - np.asarray(centre, dtype=np.float32).reshape(3, 1, 1, 1)


def ellipsoid(points: Field, centre: Triple, radii: Triple) -> Field:
    """Return the field of an ellipsoid along the axes."""
    scaled = _relative(points, centre) / np.asarray(radii, dtype=np.float32).reshape(3, 1, 1, 1)
    return (np.sqrt((scaled**2).sum(0)) - 1) * min(radii)


def lobed(points: Field, centre: Triple, radius: float, coefficients: Sequence[float]) -> Field:
    """Return the field of a blob whose radius varies with the direction by low-order spherical harmonics."""
    offset = _relative(points, centre)
    length = np.sqrt((offset**2).sum(0)) + np.float32(1e-6)
    direction = offset / length
    surface = np.ones_like(length)
    for coefficient, harmonic in zip(coefficients, _HARMONICS, strict=False):
        surface += np.float32(coefficient) * harmonic(*direction)
    return length - np.float32(radius) * surface


def tube(points: Field, path: Sequence[Triple], radius: float, end_radius: float | None = None) -> Field:
    """Return the field of a tube around a polyline, its radius going linearly from ``radius`` to ``end_radius``."""
    end_radius = radius if end_radius is None else end_radius
    best: Field | None = None
    num = len(path) - 1
    for index in range(num):
        start, stop = np.asarray(path[index], np.float32), np.asarray(path[index + 1], np.float32)
        along = stop - start
        offset = _relative(points, tuple(start))
        share = np.clip(np.tensordot(along, offset, 1) / float(along @ along), 0, 1)
        away = offset - share * along.reshape(3, 1, 1, 1)
        here = radius + (end_radius - radius) * (index + share) / num
        field = np.sqrt((away**2).sum(0)) - here
        best = field if best is None else np.minimum(best, field)
    assert best is not None, "a tube needs two points"
    return best.astype(np.float32)


def arc(centre: Triple, radius: float, start: float, stop: float, rise: float = 0.0, num: int = 9) -> list[Triple]:
    """Return points of an arc in the x-y plane (angles in radians) that climbs by ``rise`` along z."""
    angles = np.linspace(start, stop, num)
    heights = np.linspace(-rise / 2, rise / 2, num)
    return [
        (centre[0] + radius * float(np.cos(a)), centre[1] + radius * float(np.sin(a)), centre[2] + float(h))
        for a, h in zip(angles, heights, strict=True)
    ]


def torus(points: Field, centre: Triple, major: float, minor: float, squeeze: float = 1.0) -> Field:
    """Return the field of a ring around z; ``squeeze`` below 1 makes it an oval, flatter along y."""
    x, y, z = _relative(points, centre)
    ring = np.sqrt(x * x + (y / np.float32(squeeze)) ** 2) - np.float32(major)
    return np.sqrt(ring * ring + z * z) - np.float32(minor)


def disc(points: Field, centre: Triple, radii: tuple[float, float], half_height: float) -> Field:
    """Return the field of a flat elliptic cylinder around z."""
    x, y, z = _relative(points, centre)
    side = (np.sqrt((x / np.float32(radii[0])) ** 2 + (y / np.float32(radii[1])) ** 2) - 1) * np.float32(min(radii))
    return np.maximum(side, np.abs(z) - np.float32(half_height))


def union(*fields: Field) -> Field:
    """Return the field of what is in any of the shapes."""
    return np.minimum.reduce(fields)


def without(field: Field, hole: Field) -> Field:
    """Return the field of the first shape less the second."""
    return np.maximum(field, -hole)


def both(*fields: Field) -> Field:
    """Return the field of what is in all of the shapes."""
    return np.maximum.reduce(fields)


def warp(points: Field, rng: np.random.Generator, amount: float) -> Field:
    """Return the points after one person's smooth deformation: turn, size, shift and a few long waves."""
    angles = rng.normal(0, 0.9 * amount, 3)
    turn = rotation(angles)
    size = np.exp(rng.normal(0, 0.8 * amount, 3)).reshape(3, 1)
    matrix = (turn * size).astype(np.float32)
    moved = np.tensordot(matrix, points, 1) + rng.normal(0, 0.5 * amount, 3).astype(np.float32).reshape(3, 1, 1, 1)
    for axis in range(3):
        for _ in range(3):
            wave = rng.normal(0, 2.0, 3).astype(np.float32)
            phase = np.float32(rng.uniform(0, 2 * np.pi))
            moved[axis] += np.float32(0.4 * amount) * np.sin(np.tensordot(wave, points, 1) + phase)
    return moved.astype(np.float32)


def rotation(angles: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that turns by ``angles`` (radians) about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix
