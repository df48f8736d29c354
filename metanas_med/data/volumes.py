"""Scans and label maps of any readable format: one door, ``read_image``, in front of the readers of the formats.

Arrays are (C, X, Y, Z) for images and (X, Y, Z) for labels; affines are (4, 4) float64 and map voxel indices to mm, RAS+.
An image may be several files, one a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from . import nifti
from .orientation import agree

#: the file of an image, or its files, one a channel
Files = Path | str | Sequence[Path]


def files_of(image: Files) -> tuple[Path, ...]:
    """Return the files of an image."""
    return (Path(image),) if isinstance(image, Path | str) else tuple(image)


def read_image(image: Files) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(array (C, X, Y, Z), affine (4, 4) float64)``, as ``nifti.read_image`` does.

    Raises DataError as it does, and if the files of an image have different grids or more than one channel each.
    """
    files = files_of(image)
    if len(files) == 1:
        return nifti.read_image(files[0])
    arrays, affines = zip(*(nifti.read_image(file) for file in files), strict=True)
    for file, array, affine in zip(files, arrays, affines, strict=True):
        if len(array) != 1:
            raise DataError(f"{file}: found {len(array)} channels, expected one: each channel of this scan has a file of its own")
        check_grid(file, array.shape[1:], affine, files[0], arrays[0].shape[1:], affines[0])
    return np.concatenate(arrays), affines[0]


def check_grid(
    file: Path, shape: Sequence[int], affine: np.ndarray, first: Path, expected: Sequence[int], expected_affine: np.ndarray
) -> None:
    """Raise DataError if a channel's file has another grid than the first one."""
    if tuple(shape) != tuple(expected):
        raise DataError(
            f"{file}: found shape {_by(shape)}, {first.name} has {_by(expected)}; the channels of a scan share a grid"
        )
    if not agree(shape, expected_affine, affine):
        raise DataError(f"{file}: lies elsewhere than {first.name}; the channels of a scan share a grid. Resample it")


def read_geometry(image: Files) -> tuple[tuple[int, ...], np.ndarray]:
    """Return ``(shape (X, Y, Z) or (X, Y, Z, channels), affine (4, 4) float64)``; reads only headers."""
    files = files_of(image)
    shape, affine = nifti.read_geometry(files[0])
    if len(files) == 1:
        return shape, affine
    for file in files[1:]:
        other, other_affine = nifti.read_geometry(file)
        check_grid(file, other, other_affine, files[0], shape, affine)
    return (*shape[:3], len(files)), affine


def read_notes(image: Files) -> tuple[str, ...]:
    """Return what the headers of an image leave open about its geometry, and what is assumed; reads only headers."""
    return tuple(dict.fromkeys(note for file in files_of(image) for note in nifti.read_notes(file)))


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
