"""Scans and label maps of any readable format: one door, ``read_image``, in front of the readers of the formats.

Formats: NIfTI (``.nii``, ``.nii.gz``), NRRD (``.nrrd``), MetaImage (``.mha``), and a folder with the files of a DICOM series.
Arrays are (C, X, Y, Z) for images and (X, Y, Z) for labels; affines are (4, 4) float64 and map voxel indices to mm, RAS+.
An image may be several files, one a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..parse import no_file
from . import dicom, mha, nifti, nrrd
from .orientation import agree

#: the file of an image, or its files, one a channel; the folder of a DICOM series counts as a file
Files = Path | str | Sequence[Path]


def files_of(image: Files) -> tuple[Path, ...]:
    """Return the files of an image."""
    return (Path(image),) if isinstance(image, Path | str) else tuple(image)


def parts_of(path: Path) -> list[Path]:
    """Return the files on the disk of a scan's ``path``: itself, or those in its folder if it is a DICOM series."""
    return dicom.dicom_files(path) if path.is_dir() else [path]


def no_volume(path: Path) -> str:
    """Return why ``path`` is neither a file nor the folder of a DICOM series; "" if it is one of them."""
    reason = no_file(path)
    return "" if reason and dicom.is_dicom_folder(path) else reason


def is_nifti(path: Path) -> bool:
    """Return whether a path is read as NIfTI, as all are that have no other format's name and are no folder."""
    return _reader(path) is nifti


def _reader(path: Path) -> Any:
    if path.is_dir():
        return dicom if dicom.is_dicom_folder(path) else nifti
    return {".nrrd": nrrd, ".mha": mha}.get(path.suffix, nifti)


def read_image(image: Files) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(array (C, X, Y, Z), affine (4, 4) float64)`` of an image.

    Unscaled integers keep their type, all other values become float32. Raises DataError for a file that is damaged, truncated or
    too large, holds non-finite values or has no usable geometry; and if the files of an image have different grids or more than
    one channel each.
    """
    files = files_of(image)
    if len(files) == 1:
        return _reader(files[0]).read_image(files[0])
    arrays, affines = zip(*(_reader(file).read_image(file) for file in files), strict=True)
    for file, array, affine in zip(files, arrays, affines, strict=True):
        if len(array) != 1:
            raise DataError(f"{file}: found {len(array)} channels, expected one: each channel of this scan has a file of its own")
        check_grid(file, array.shape[1:], affine, files[0], arrays[0].shape[1:], affines[0])
    return np.concatenate(arrays), affines[0]


def read_label(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(labels (X, Y, Z) uint8, affine (4, 4) float64)``; DataError unless values are whole numbers in 0..255."""
    reader = _reader(path)
    if reader is nifti:
        return nifti.read_label(path)
    array, affine = reader.read_image(path)
    if len(array) != 1:
        raise DataError(f"{path}: found a label map of {len(array)} channels, expected one value per voxel; merge its layers")
    return nifti.label_values(path, array[0]), affine


def read_masks(masks: Sequence[tuple[int, Path]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map (X, Y, Z) uint8 of (label value, file of a mask) and its affine (4, 4).

    Voxels of a mask above 0 get its value. Raises DataError for masks on different grids, and for masks that overlap.
    """
    found, affine = np.zeros(0, np.uint8), np.eye(4)
    for number, (value, path) in enumerate(masks):
        mask, own = read_label(path)
        if not number:
            found, affine = np.zeros(mask.shape, np.uint8), own
        check_grid(path, mask.shape, own, masks[0][1], found.shape, affine)
        if both := int(np.count_nonzero(found[mask > 0])):
            raise DataError(
                f"{path}: {both} voxels belong to another mask of this scan, too; expected organs that do not overlap"
            )
        found[mask > 0] = value
    return found, affine


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
    shape, affine = _reader(files[0]).read_geometry(files[0])
    if len(files) == 1:
        return shape, affine
    for file in files[1:]:
        other, other_affine = _reader(file).read_geometry(file)
        check_grid(file, other, other_affine, files[0], shape, affine)
    return (*shape[:3], len(files)), affine


def read_forms(path: Path) -> tuple[tuple[np.ndarray, ...], bool]:
    """Return the affines (4, 4) that a header gives, the one in use first, and whether it has an orientation at all."""
    reader = _reader(path)
    return nifti.read_forms(path) if reader is nifti else ((reader.read_geometry(path)[1],), True)


def read_notes(image: Files) -> tuple[str, ...]:
    """Return what the headers of an image leave open about its geometry, and what is assumed; reads only headers.

    Only NIfTI leaves anything open: the other formats are refused in that case.
    """
    return tuple(dict.fromkeys(note for file in files_of(image) if is_nifti(file) for note in nifti.read_notes(file)))


def write_label(path: Path | str, labels: np.ndarray, like: Path | str) -> None:
    """Write ``labels`` (X, Y, Z) uint8 as NIfTI, atomically and with the geometry of the scan ``like``, whatever its format."""
    if is_nifti(Path(like)):
        nifti.write_label(path, labels, like)
    else:
        _write_on_grid_of(path, labels, like, np.uint8)


def write_probabilities(path: Path | str, probabilities: np.ndarray, like: Path | str) -> None:
    """Write class probabilities (X, Y, Z, K + 1) float32 as ``write_label`` does; the last axis is that of the classes."""
    if is_nifti(Path(like)):
        nifti.write_probabilities(path, probabilities, like)
    else:
        _write_on_grid_of(path, probabilities, like, np.float32)


def _write_on_grid_of(path: Path | str, array: np.ndarray, like: Path | str, kind: type[np.generic]) -> None:
    shape, affine = read_geometry(like)
    if tuple(array.shape[:3]) != shape[:3] or array.dtype != kind:
        raise DataError(f"{path}: found an array {array.shape} {array.dtype}, expected {shape[:3]} {kind.__name__} as in {like}")
    nifti.write_on_grid(path, array, affine)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
