"""Checked NIfTI reading and writing: arrays are complete and finite and have a usable geometry, else DataError says why.

Arrays are (C, X, Y, Z) for images and (X, Y, Z) for labels; affines are (4, 4) float64 and map voxel indices to mm.
"""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ..errors import DataError
from ..files import atomic_path
from ..machine import free_memory_bytes
from ..parse import no_file
from .orientation import Orientation as Orientation
from .orientation import agree, distance, turn_onto
from .orientation import to_canonical as to_canonical

#: The errors that nibabel and gzip raise for damaged bytes.
_DAMAGE = (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError, OverflowError)
_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540
_OTHER_UNITS = {1: "metres", 3: "micrometres"}  # NIFTI_UNITS_METER, NIFTI_UNITS_MICRON; 2 is mm, 0 says nothing
_MAX_DEFLATE_RATIO = 1032  # deflate cannot compress further: https://zlib.net/zlib_tech.html
_BLOCK = 1 << 24
_WHOLE = 1e-3  # a label value this close to a whole number is that number
_FORM_CODES = range(6)  # NIFTI_XFORM_UNKNOWN to NIFTI_XFORM_TEMPLATE_OTHER
_PADDING = 512  # zeros that may follow the voxels: some tools write whole blocks
_LARGE = 1 << 28  # bytes; below it free memory is not asked for

#: nibabel logs the header fields that it repairs to stderr; for others it raises an error
_SILENT = logging.Logger("metanas_med.nifti.silent", level=logging.CRITICAL + 1)


def read_image(path: Path | str, max_voxels: int = 2**31) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(array (C, X, Y, Z), affine (4, 4) float64)``; unscaled integers keep their type, all other values become float32.

    The last axis of a 4D file becomes the channels; singleton axes beyond the third are dropped.
    Raises DataError for a file that is damaged, has more than ``max_voxels``, holds non-finite values or has no usable affine.
    """
    array, affine, _ = _read(Path(path), max_voxels)
    if array.ndim == 3:
        return array[np.newaxis], affine
    return np.moveaxis(array, -1, 0), affine


def read_label(path: Path | str, max_voxels: int = 2**31) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(labels (X, Y, Z) uint8, affine (4, 4) float64)``.

    Values within the file's own rounding of a whole number are rounded to it. Raises DataError as ``read_image`` does, and for
    values that are not whole numbers in 0..255.
    """
    array, affine, header = _read(Path(path), max_voxels)
    return label_values(Path(path), array, lambda: _label_rounding(Path(path), header)), affine


def label_values(path: Path, array: np.ndarray, rounding_of: Callable[[], float] = lambda: _WHOLE) -> np.ndarray:
    """Return the labels (X, Y, Z) uint8 of a file's values; DataError unless they are whole numbers in 0..255.

    ``rounding_of`` returns how far a value that is stored as a fraction may lie from its whole number.
    """
    if array.ndim != 3:
        raise DataError(f"{path}: found a label map of shape {array.shape}, expected three axes; write one value per voxel")
    if array.dtype.kind == "f":
        rounding = rounding_of()
        whole = np.rint(array)
        num_broken = int(np.count_nonzero(np.abs(array - whole) > rounding))
    else:
        whole, num_broken = array, 0
    lowest, highest = whole.min(), whole.max()
    if lowest < 0 or highest > 255:
        raise DataError(f"{path}: found label values {lowest:g} to {highest:g}, expected whole numbers in 0..255")
    if num_broken:
        raise DataError(f"{path}: found {num_broken} label voxels that are not whole numbers; was the map resampled linearly?")
    return whole.astype(np.uint8)


def _label_rounding(path: Path, header: Any) -> float:
    """Return how far a stored label may lie from a whole number: half of ``scl_slope`` for integers, and at least 1e-3.

    Integers are stored as ``value / scl_slope``, rounded. Raises DataError if that could have made two labels equal.
    """
    slope, _ = header.get_slope_inter()
    if slope is None or header.get_data_dtype().kind == "f":
        return _WHOLE
    if abs(slope) > 1 + 1e-6:
        raise DataError(
            f"{path}: found label values stored in steps of {abs(slope):g} (scl_slope), which may have merged neighbouring "
            "labels; expected steps of at most 1. Save the label map again as unscaled integers."
        )
    return max(_WHOLE, abs(slope) / 2 * (1 + 1e-5)) if abs(slope) < 1 - 1e-6 else _WHOLE


def read_notes(path: Path | str) -> tuple[str, ...]:
    """Return what the header of a scan leaves open about its geometry, and what is assumed; reads only the header."""
    path = Path(path)
    with _errors_named(path), _opened(path) as stream:
        return _notes(path, stream)


def read_forms(path: Path | str) -> tuple[tuple[np.ndarray, ...], bool]:
    """Return the affines (4, 4) that a header gives, the one in use first, and whether it has an orientation at all."""
    path = Path(path)
    with _errors_named(path), _opened(path) as stream:
        header = _read_header(path, stream)[0]
        used = _checked_affine(path, header)
        other = _qform(header) if int(header["sform_code"]) else None
        coded = bool(int(header["sform_code"]) or int(header["qform_code"]))
        return (used,) if other is None else (used, other), coded


def read_geometry(path: Path | str) -> tuple[tuple[int, ...], np.ndarray]:
    """Return ``(shape (X, Y, Z) or (X, Y, Z, channels), affine (4, 4) float64)``; reads only the header."""
    path = Path(path)
    with _errors_named(path), _opened(path) as stream:
        header = _read_header(path, stream)[0]
        return _spatial_shape(path, header), _checked_affine(path, header)


class _errors_named:
    """Converts the various errors of damaged files into one DataError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        if reason := no_file(self.path):
            raise DataError(f"{self.path}: {reason}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, MemoryError):
            raise DataError(f"{self.path}: does not fit in memory") from error
        if isinstance(error, PermissionError):
            raise DataError(f"{self.path}: no read permission; change its permissions") from error
        if isinstance(error, _DAMAGE):
            raise DataError(f"{self.path}: damaged or not NIfTI ({error or type(error).__name__}); fetch it again") from error


def _opened(path: Path) -> Any:
    with open(path, "rb") as source:
        zipped = source.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else open(path, "rb")


def _read(path: Path, max_voxels: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return ``(array (X, Y, Z) or (X, Y, Z, C), affine, header)`` after all checks that images and labels share."""
    with _errors_named(path), _opened(path) as stream:
        header, _, head = _read_header(path, stream)
        shape = _spatial_shape(path, header)
        claimed = _checked_size(path, header, isinstance(stream, gzip.GzipFile), max_voxels)
        affine = _checked_affine(path, header)
        content = (head + stream.read(max(0, claimed - len(head))))[:claimed]
        if len(content) < claimed:
            raise DataError(f"{path}: truncated, found {len(content)} bytes, expected {claimed}; fetch the file again")
        rest = stream.read(_PADDING + 1)  # to the end of the stream, because gzip compares the CRC only there
        if len(rest) > _PADDING or any(rest):
            raise DataError(
                f"{path}: found more bytes than the {claimed} that its header claims; the header is wrong or the file is damaged, "
                "fetch it again"
            )
        array = _voxels(path, content, header)
    return array.reshape(shape, order="F"), affine, header


def _read_header(path: Path, stream: Any) -> tuple[Any, Any, bytes]:
    header, image_class, head = _stored_header(path, stream)
    _refuse_repairs(path, header)
    header.check_fix(logger=_SILENT, error_level=40)
    if header["magic"].item().rstrip(b"\0\r\n\x1a") not in (b"n+1", b"n+2"):
        raise DataError(f"{path}: found magic {header['magic'].item()!r}, expected a single-file NIfTI (n+1 or n+2)")
    return header, image_class, head


def _stored_header(path: Path, stream: Any) -> tuple[Any, Any, bytes]:
    """Return the header as it is stored, the image class and the first bytes of the file."""
    head = stream.read(_NIFTI2_BYTES)
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if _NIFTI1_BYTES in sizes and len(head) >= _NIFTI1_BYTES:
        image_class: Any = nib.Nifti1Image
    elif _NIFTI2_BYTES in sizes and len(head) >= _NIFTI2_BYTES:
        image_class = nib.Nifti2Image
    else:
        raise DataError(f"{path}: not a NIfTI file (.nii or .nii.gz), or its header is damaged")
    header_class = image_class.header_class
    return header_class(head[: header_class.template_dtype.itemsize], check=False), image_class, head


def _refuse_repairs(path: Path, header: Any) -> None:
    """Raise DataError for what nibabel's ``check_fix`` would repair by a guess that can give wrong voxels or positions."""
    if int(header["sizeof_hdr"]) != header.template_dtype.itemsize:  # byte order is guessed from another field
        raise DataError(f"{path}: damaged or not NIfTI (its header has no byte order); fetch it again")
    if (header["pixdim"][1:4] == 0).any():
        sizes = [float(f"{size:.6g}") for size in header["pixdim"][1:4]]
        raise DataError(f"{path}: found voxel sizes {sizes} mm (pixdim), expected none to be 0; write the true voxel size")
    for field in ("sform_code", "qform_code"):
        if int(header[field]) not in _FORM_CODES:
            raise DataError(f"{path}: found {field} {int(header[field])}, expected 0 to 5; write the header again")
    if int(header["bitpix"]) not in (0, _bits(header)):
        raise DataError(
            f"{path}: found {int(header['bitpix'])} bits per voxel for data type {int(header['datatype'])}, expected "
            f"{_bits(header)}; its header is damaged, fetch it again"
        )
    start, least = float(header["vox_offset"]), header.single_vox_offset
    if not start >= least or start % 1:
        raise DataError(f"{path}: the voxels start at byte {start:g} (vox_offset), expected a whole number of at least {least}")
    if np.isinf(header["scl_slope"]):
        raise DataError(f"{path}: found scl_slope {float(header['scl_slope'])}, expected a finite number; save the file again")


def _bits(header: Any) -> int:
    """Return the bits of a voxel by the data type; those of the field ``bitpix`` if the type is unknown, which is refused later."""
    try:
        return header.get_data_dtype().itemsize * 8
    except (HeaderDataError, KeyError):
        return int(header["bitpix"])


def _notes(path: Path, stream: Any) -> tuple[str, ...]:
    header, _, head = _read_header(path, stream)
    stored, notes = type(header)(head[: header.template_dtype.itemsize], check=False), []
    has_sform, has_qform = (bool(int(header[field])) for field in ("sform_code", "qform_code"))
    if not (has_sform or has_qform):
        notes.append("no orientation in the header: left and right may be swapped")
    if has_sform and has_qform:
        used, other = _checked_affine(path, header), _qform(header)
        if other is None:
            notes.append("the qform is not valid: sform taken")
        elif not agree(_spatial_shape(path, header)[:3], used, other):
            notes.append("sform and qform disagree: sform taken")
    if not has_sform and (stored["pixdim"][1:4] < 0).any():
        notes.append("a voxel size in the header is negative: taken as positive")
    if has_qform and not has_sform and float(stored["pixdim"][0]) not in (-1, 0, 1):
        notes.append("qfac (pixdim[0]) is neither 1 nor -1: taken as 1, an axis may be mirrored")
    if header.get_slope_inter()[0] is None and np.nan_to_num(header["scl_inter"]):
        notes.append("scl_slope is 0: scl_inter has no effect")
    return tuple(notes)


def _qform(header: Any) -> np.ndarray | None:
    """Return the affine (4, 4) of the qform; None if there is none, or if it is not valid."""
    if not int(header["qform_code"]):
        return None
    try:
        affine = np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return None
    return affine if np.isfinite(affine).all() else None


def _spatial_shape(path: Path, header: Any) -> tuple[int, ...]:
    """Return the shape as (X, Y, Z) or (X, Y, Z, C), singleton axes beyond the third dropped."""
    shape = tuple(int(size) for size in header.get_data_shape())
    kept = shape[:3] + tuple(size for size in shape[3:] if size != 1)
    if not 3 <= len(kept) <= 4 or min(kept) < 1:
        raise DataError(f"{path}: found shape {shape}, expected (X, Y, Z) or (X, Y, Z, channels) without empty axes")
    return kept


def _checked_size(path: Path, header: Any, zipped: bool, max_voxels: int) -> int:
    """Return the bytes of header and voxels; raises DataError, before allocating anything, if the file cannot hold that many."""
    shape = header.get_data_shape()
    num_voxels = int(np.prod([int(size) for size in shape], dtype=object))
    if num_voxels > max_voxels:
        raise DataError(f"{path}: the header claims shape {tuple(shape)}, {num_voxels} voxels; expected at most {max_voxels}")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise DataError(f"{path}: found voxels of type {dtype}, expected integers or floating point numbers")
    claimed = _data_offset(header) + num_voxels * dtype.itemsize
    on_disk = path.stat().st_size
    if claimed > on_disk * (_MAX_DEFLATE_RATIO if zipped else 1):
        raise DataError(f"{path}: truncated or damaged, its header claims {claimed} bytes, it has {on_disk}; fetch it again")
    if claimed > _LARGE and claimed > (free := free_memory_bytes() or claimed):
        raise DataError(f"{path}: its voxels take {claimed / 2**30:.3g} GiB of memory, {free / 2**30:.3g} GiB are free")
    return claimed


def _data_offset(header: Any) -> int:
    return max(int(header.get_data_offset()), int(header.single_vox_offset))  # 0: the first possible byte


def _checked_affine(path: Path, header: Any) -> np.ndarray:
    unit = _OTHER_UNITS.get(int(header["xyzt_units"]) & 7)
    if unit:
        raise DataError(f"{path}: the header gives lengths in {unit}, expected millimetres; save the scan again in mm")
    with np.errstate(all="ignore"):  # values that are not finite are refused below
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not np.isfinite(affine).all():
        raise DataError(f"{path}: the affine holds values that are not finite; write a valid sform or qform")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # the volume of a voxel relative to that of a box with the same edges: 1 if orthogonal, 0 if flat
    if spacing.min() < 1e-4 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-2:
        raise DataError(f"{path}: the affine is singular (spacing {np.round(spacing, 4).tolist()} mm); write a valid one")
    return affine


def _voxels(path: Path, content: bytes, header: Any) -> np.ndarray:
    """Return the voxels as a flat array: unscaled integers keep their type, all other values become float32."""
    stored = header.get_data_dtype()
    raw = np.frombuffer(content, dtype=stored, offset=_data_offset(header))
    given = abs(float(header["scl_slope"]))
    if given and (given == np.inf or given < np.finfo(np.float32).tiny):  # nibabel ignores an infinite slope
        raise DataError(f"{path}: found scl_slope {given:g} in the header, expected a usable factor; write the scan again")
    slope, intercept = header.get_slope_inter()
    unscaled = slope is None or (slope == 1 and not intercept)
    if unscaled and stored.kind in "iu":
        return raw.astype(stored.newbyteorder("="))
    array, num_bad = np.empty(raw.size, dtype=np.float32), 0
    for start in range(0, raw.size, _BLOCK):  # in blocks, because the intermediate values are float64
        part = raw[start : start + _BLOCK]
        with np.errstate(all="ignore"):  # an overflow gives infinity, which is rejected below
            array[start : start + _BLOCK] = part if unscaled else part * np.float64(slope) + np.float64(intercept)
        num_bad += int(part.size - np.count_nonzero(np.isfinite(array[start : start + _BLOCK])))
    if num_bad:
        raise DataError(f"{path}: found {num_bad} voxels of {array.size} that are NaN or infinite, expected finite values")
    return array


def check_pair(
    image_shape: Sequence[int],
    image_affine: np.ndarray,
    label_shape: Sequence[int],
    label_affine: np.ndarray,
    names: tuple[str, str] = ("image", "label"),
) -> Orientation:
    """Return the turn that brings the label into the axes of an image (C, X, Y, Z) or (X, Y, Z); usually none is needed.

    Raises DataError unless both have the same voxels in the world: no corner differs by more than a tenth of a voxel.
    """
    if turn := turn_onto(image_shape[-3:], image_affine, label_shape, label_affine):
        return turn
    raise DataError(off_grid(image_shape[-3:], image_affine, label_shape, label_affine, names))


def off_grid(
    shape: Sequence[int], affine: np.ndarray, label_shape: Sequence[int], label_affine: np.ndarray, names: tuple[str, str]
) -> str:
    """Return how an image of ``shape`` (X, Y, Z) and its label differ."""
    if tuple(shape) != tuple(label_shape):
        return f"{names[0]} has shape {tuple(shape)}, its label {names[1]} {tuple(label_shape)}; expected the same grid"
    apart = distance(shape, affine, label_affine)
    return f"{names[0]} and its label {names[1]} lie up to {apart:.3g} mm apart; expected the same affine"


def write_label(path: Path | str, labels: np.ndarray, like: Path | str) -> None:
    """Write ``labels`` (X, Y, Z) uint8, in the scan's own orientation, atomically and with the geometry of the scan ``like``.

    Shape, sform and qform with their codes are copied from ``like``; its free text and extensions are not.
    """
    _write_like(Path(path), labels, Path(like), np.uint8)


def write_probabilities(path: Path | str, probabilities: np.ndarray, like: Path | str) -> None:
    """Write class probabilities (X, Y, Z, K + 1) float32 as ``write_label`` does; the last axis is that of the classes."""
    _write_like(Path(path), probabilities, Path(like), np.float32)


def _write_like(path: Path, array: np.ndarray, like: Path, kind: type[np.generic]) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path}: expected a name that ends with .nii or .nii.gz")
    with _errors_named(like), _opened(like) as stream:
        header, image_class, _ = _read_header(like, stream)
        shape = _spatial_shape(like, header)[:3]
        _checked_affine(like, header)
    if tuple(array.shape[:3]) != tuple(shape) or array.dtype != kind:
        raise DataError(
            f"{path}: found an array {array.shape} {array.dtype}, expected {tuple(shape)} {kind.__name__} as in {like}"
        )
    header = header.as_byteswapped("<")
    header.set_data_shape(array.shape)
    header.set_data_dtype(kind)
    header.set_intent("none")
    for field, empty in {"descrip": b"", "aux_file": b"", "cal_min": 0, "cal_max": 0, "vox_offset": 0}.items():
        header[field] = empty
    for field in ("db_name", "data_type", "unused_str"):  # free text of NIfTI-1, and the spare bytes of NIfTI-2
        if field in header.keys():
            header[field] = b""
    _write(path, image_class(array, header.get_best_affine(), header))


def write_on_grid(path: Path | str, labels: np.ndarray, affine: np.ndarray) -> None:
    """Write labels (X, Y, Z) uint8, or (X, Y, Z, K + 1) float32, with an affine (4, 4) to mm: sform and qform (code 1: scanner)."""
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path}: expected a name that ends with .nii or .nii.gz")
    image = nib.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    _write(path, image)


def _write(path: Path, image: Any) -> None:
    buffer = io.BytesIO()
    image.to_stream(buffer)
    content = buffer.getvalue()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)  # no time stamp: the same labels give the same bytes
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
