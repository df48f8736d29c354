"""What the readers of other formats than NIfTI share: names, limits, affines and voxels, and the error for an absent package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..machine import free_memory_bytes

#: from LPS, in which DICOM, NRRD and MHA files give positions, to RAS
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LARGE = 1 << 28  # bytes; below it free memory is not asked for


def need(module: str, package: str, extra: str, path: Path) -> Any:
    """Return an optional module; raises DataError that names the extra with its ``package`` if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"{path}: reading this format needs {package}, which is not installed; run: pip install 'metanas-med[{extra}]'"
        ) from error


def affine_of(path: Path, directions: Any, origin: Any, turn: np.ndarray = LPS_TO_RAS) -> np.ndarray:
    """Return the affine (4, 4) to RAS mm of ``directions`` (3, 3), a column a voxel axis in mm, and ``origin`` (3,) in mm.

    ``turn`` (4, 4) brings the file's axes to RAS. Raises DataError for values that are not finite, or a singular matrix.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions, origin
    if not np.isfinite(affine).all():
        raise DataError(f"{path}: the geometry holds values that are not finite; write the scan again")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < 1e-4 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-2:
        raise DataError(f"{path}: the axes are singular (spacing {np.round(spacing, 4).tolist()} mm); write valid ones")
    return turn @ affine


def check_size(path: Path, shape: Sequence[int], itemsize: int, max_voxels: int) -> None:
    """Raise DataError for an empty shape, and if that many voxels are not allowed or do not fit in memory."""
    number = math.prod(shape)
    if number < 1:
        raise DataError(f"{path}: found shape {tuple(shape)}, expected no empty axis")
    if number > max_voxels:
        raise DataError(f"{path}: the header claims shape {tuple(shape)}, {number} voxels; expected at most {max_voxels}")
    claimed = number * itemsize
    if claimed > _LARGE and claimed > (free := free_memory_bytes() or claimed):
        raise DataError(f"{path}: its voxels take {claimed / 2**30:.3g} GiB of memory, {free / 2**30:.3g} GiB are free")


def voxels_of(path: Path, array: np.ndarray) -> np.ndarray:
    """Return voxels in the machine's byte order: integers keep their type, other values become float32 and must be finite."""
    if array.dtype.kind in "iu":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind != "f":
        raise DataError(f"{path}: found voxels of type {array.dtype}, expected integers or floating point numbers")
    with np.errstate(over="ignore"):  # gives infinity, which is refused
        values = array.astype(np.float32, copy=False)
    if num_bad := int(values.size - np.count_nonzero(np.isfinite(values))):
        raise DataError(f"{path}: found {num_bad} voxels of {values.size} that are NaN or infinite, expected finite values")
    return values
