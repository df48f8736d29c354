"""NRRD files (``.nrrd``, header and voxels in one file), read by pynrrd."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..parse import no_file
from .formats import LPS_TO_RAS, affine_of, check_size, need, voxels_of

_DAMAGE = (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, IndexError, OverflowError, AssertionError)
#: names of spaces in three dimensions, and what turns each to RAS
_SPACES = {
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
}
#: kinds of axes that hold colours or parts of one number
_NO_CHANNELS = ("color", "complex", "matrix", "tensor", "quaternion", "hsv", "xyz")


def read_image(path: Path, max_voxels: int = 2**31) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(array (C, X, Y, Z), affine (4, 4) float64)``; an axis without a direction in space holds the channels.

    Raises DataError for a damaged file, detached voxels, colours, and a header without positions in millimetres.
    """
    nrrd = need("nrrd", "pynrrd", "formats", path)
    header, shape, affine = _header(nrrd, path)
    check_size(path, shape, 8, max_voxels)
    try:
        with open(path, "rb") as stream:
            nrrd.read_header(stream)
            array = nrrd.read_data(header, stream, index_order="F")
            rest = stream.read(1)
    except (*_DAMAGE, nrrd.NRRDError) as error:
        raise _damaged(path, error) from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit in memory") from error
    if header["encoding"] == "raw" and rest:
        raise DataError(
            f"{path}: found more bytes than its header claims; the header is wrong or the file is damaged, fetch it again"
        )
    channels = _channel_axis(path, header)
    array = array[np.newaxis] if channels is None else np.moveaxis(array, channels, 0)
    return voxels_of(path, array), affine


def read_geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return ``(shape (X, Y, Z) or (X, Y, Z, channels), affine (4, 4) float64)``; reads only the header."""
    header, shape, affine = _header(need("nrrd", "pynrrd", "formats", path), path)
    channels = _channel_axis(path, header)
    if channels is None:
        return shape, affine
    return (*(n for axis, n in enumerate(shape) if axis != channels), shape[channels]), affine


def _header(nrrd: Any, path: Path) -> tuple[dict[str, Any], tuple[int, ...], np.ndarray]:
    """Return the header, the sizes of all axes in the order of the file, and the affine (4, 4) of those in space."""
    if reason := no_file(path):
        raise DataError(f"{path}: {reason}")
    try:
        with open(path, "rb") as stream:
            header = nrrd.read_header(stream)
        shape = tuple(int(n) for n in header["sizes"])
    except (*_DAMAGE, nrrd.NRRDError) as error:
        raise _damaged(path, error) from error
    if "data file" in header or "datafile" in header:
        raise DataError(
            f"{path}: its voxels are in another file ('data file'), expected one file; save it as .nrrd, not as .nhdr"
        )
    space = str(header.get("space", "")).lower()
    if space not in _SPACES:
        found = f"space {space!r}" if space else "no 'space'"
        raise DataError(
            f"{path}: found {found} in the header, expected left-posterior-superior, right-anterior-superior or "
            "left-anterior-superior: without it nothing says where left is. Write 'space', 'space directions', 'space origin'"
        )
    if units := {str(unit).strip('"').lower() for unit in header.get("space units", ())} - {
        "mm",
        "",
        "millimeter",
        "millimeters",
    }:
        raise DataError(f"{path}: the header gives lengths in {sorted(units)[0]}, expected mm; save the scan again in mm")
    channels = _channel_axis(path, header)
    try:
        directions = np.array([row for axis, row in enumerate(header["space directions"]) if axis != channels], dtype=float)
        origin = np.array(header["space origin"], dtype=float)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: 'space directions' or 'space origin' is missing or malformed; write both") from error
    if directions.shape != (3, 3) or origin.shape != (3,) or len(shape) - (channels is not None) != 3:
        raise DataError(f"{path}: found sizes {list(shape)}, expected three axes in space, and at most one of channels")
    return header, shape, affine_of(path, directions.T, origin, _SPACES[space])


def _channel_axis(path: Path, header: dict[str, Any]) -> int | None:
    """Return the axis of the channels: the one without a direction in space; None for a scan of one channel."""
    rows = header.get("space directions")
    if rows is None:
        raise DataError(f"{path}: the header has no 'space directions'; write the direction and the spacing of each axis")
    found = [axis for axis, row in enumerate(rows) if row is None or not np.isfinite(np.asarray(row, dtype=float)).any()]
    if len(found) > 1:
        raise DataError(f"{path}: found {len(found)} axes without a direction in space, expected at most one of channels")
    if not found:
        return None
    kinds = header.get("kinds")
    kind = str(kinds[found[0]]).lower() if kinds is not None and len(kinds) > found[0] else ""
    if any(word in kind for word in _NO_CHANNELS):
        raise DataError(f"{path}: found an axis of kind {kind!r}, expected grey values; convert colours to one value a voxel")
    return found[0]


def _damaged(path: Path, error: BaseException) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path}: no read permission; change its permissions")
    return DataError(f"{path}: truncated, damaged or not NRRD ({' '.join(str(error).split())[:150]}); fetch it again")
