"""A DICOM series: a folder of single-frame files, one a slice, read by pydicom.

What would give wrong voxels or positions is refused with its reason. Nothing is repaired: dcm2niix converts what is refused here.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .formats import affine_of, check_size, need, voxels_of

#: part of a gap between slices by which it may differ from the others; shift within the slice plane, as a part of the gap
_UNEVEN, _TILTED = 0.02, 0.01
#: mm, below which two slices have the same position
_SAME = 1e-3
#: what a folder must hold one of
_ONE_EACH = {"patients": "PatientID", "series": "SeriesInstanceUID", "frames of reference": "FrameOfReferenceUID"}
_ADVICE = "Convert it with dcm2niix and check the result"


@dataclass(frozen=True)
class Slice:
    """The header of one file; ``place`` is its position along the normal in mm."""

    path: Path
    header: Any
    place: float


class _Quiet:
    """Keeps pydicom from logging the traceback of every decoder that fails; safe in threads, which take turns."""

    def __init__(self) -> None:
        self._lock, self._logger, self._level = threading.Lock(), logging.getLogger("pydicom"), logging.NOTSET

    def __enter__(self) -> None:
        self._lock.acquire()
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL + 1)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
        self._lock.release()


_QUIET = _Quiet()


def is_dicom_folder(path: Path) -> bool:
    """Return whether a folder holds a file that is DICOM by name and content; subfolders are not searched."""
    return path.is_dir() and any(_is_named(file) and _is_dicom(file) for file in dicom_files(path))


def dicom_files(folder: Path) -> list[Path]:
    """Return the files of a folder by name, without hidden ones and without a DICOMDIR, which only lists others."""
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".") and f.name != "DICOMDIR")


def read_image(folder: Path, max_voxels: int = 2**31) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(array (1, X, Y, Z), affine (4, 4) float64)``: X along a row, Y down a column, Z along the normal of the slices.

    Values are rescaled (to HU in CT): whole numbers become int16 or int32, others float32. Raises DataError for a folder that is
    not one complete series of parallel, evenly spaced grey slices.
    """
    with _parsing(folder):
        return _read(folder, max_voxels)


def _read(folder: Path, max_voxels: int) -> tuple[np.ndarray, np.ndarray]:
    slices = _series(folder)
    affine = _affine(folder, slices)
    shape = (int(slices[0].header.Columns), int(slices[0].header.Rows), len(slices))
    check_size(folder, shape, 8, max_voxels)
    scales = [_rescale(s) for s in slices]
    whole = all(slope == 1 and intercept == round(intercept) for slope, intercept in scales)
    array = np.empty(shape, dtype=np.int32 if whole else np.float32)
    for number, (part, (slope, intercept)) in enumerate(zip(slices, scales, strict=True)):
        stored = _pixels(part)
        array[:, :, number] = (stored.astype(np.int64) + round(intercept) if whole else stored * slope + intercept).T
    if whole and array.min() >= np.iinfo(np.int16).min and array.max() <= np.iinfo(np.int16).max:
        array = array.astype(np.int16)
    return voxels_of(folder, array)[np.newaxis], affine


def read_geometry(folder: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return ``(shape (X, Y, Z), affine (4, 4) float64)``; reads the headers of all files."""
    with _parsing(folder):
        slices = _series(folder)
        return (int(slices[0].header.Columns), int(slices[0].header.Rows), len(slices)), _affine(folder, slices)


@contextmanager
def _parsing(folder: Path) -> Iterator[None]:
    """Turn what pydicom raises for values that do not fit their tag, which it parses on access, into DataError."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{folder}: does not fit in memory") from error
    except Exception as error:  # of many types
        raise DataError(f"{folder}: damaged DICOM header ({_text(error)}); fetch the series again") from error


def read_headers(folder: Path) -> list[Any]:
    """Return the headers (pydicom data sets without pixels) of a series' slices in the order of ``read_image``'s last axis."""
    return [part.header for part in _series(folder)]


def _series(folder: Path) -> list[Slice]:
    """Return the slices of a folder along their normal, after all checks of their headers."""
    pydicom = need("pydicom", "pydicom", "dicom", folder)
    headers = _headers(pydicom, folder)
    for what, keyword in _ONE_EACH.items():
        found = Counter(str(h.get(keyword, "")) for h in headers.values())
        if len(found) > 1:
            told = ", ".join(f"{number} file(s)" for number in found.values())
            raise DataError(f"{folder}: found {len(found)} {what} ({told}), expected one; give each a folder of its own")
    for path, header in headers.items():
        _check_header(path, header)
    first = next(iter(headers.values()))
    for keyword in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        for path, header in headers.items():
            if not np.allclose(np.ravel(header[keyword].value), np.ravel(first[keyword].value), rtol=0, atol=1e-4):
                raise DataError(
                    f"{path}: {keyword} is {_text(header[keyword].value)}, that of {next(iter(headers)).name} is "
                    f"{_text(first[keyword].value)}; expected the same in all slices. Give each series a folder of its own"
                )
    row, column = np.reshape(np.array(first.ImageOrientationPatient, dtype=float), (2, 3))
    normal = np.cross(row, column)
    slices = [Slice(p, h, float(np.dot(np.array(h.ImagePositionPatient, dtype=float), normal))) for p, h in headers.items()]
    slices.sort(key=lambda s: s.place)
    _check_places(folder, slices, normal)
    return slices


def _headers(pydicom: Any, folder: Path) -> dict[Path, Any]:
    """Return the headers of the DICOM files of a folder; other files are passed over unless they are named as DICOM files are."""
    found = {}
    for path in dicom_files(folder):
        if not _is_dicom(path):
            if _is_named(path):
                raise DataError(f"{path}: not DICOM, or damaged: it does not begin as a DICOM file does. Fetch or remove it")
            continue
        try:
            found[path] = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception as error:  # pydicom raises many types for damaged files
            raise DataError(f"{path}: damaged DICOM file ({_text(error)}); fetch it again") from error
    if not found:
        raise DataError(f"{folder}: found no DICOM file; expected the files of one series")
    return found


def _check_header(path: Path, header: Any) -> None:
    """Raise DataError for a file that is no single grey slice with a position."""
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise DataError(f"{path}: found {header.NumberOfFrames} frames in one file, expected one slice a file. {_ADVICE}")
    if "Rows" not in header or "Columns" not in header:
        raise DataError(
            f"{path}: found no image (modality {header.get('Modality', 'unknown')}); expected slices alone. Remove it"
        )
    colours, kind = int(header.get("SamplesPerPixel", 1)), str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if colours != 1 or not kind.startswith("MONOCHROME"):
        raise DataError(f"{path}: a colour image ({kind}), expected grey values; choose the original series")
    for keyword, length in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        if keyword not in header or header[keyword].VM != length:
            raise DataError(f"{path}: {keyword} is missing or malformed, so its position is unknown; choose the original series")
    try:
        finite = all(np.isfinite(np.array(header[k].value, dtype=float)).all() for k in ("ImagePositionPatient", "PixelSpacing"))
        axes = np.reshape(np.array(header.ImageOrientationPatient, dtype=float), (2, 3))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: its position or spacing is not a number; choose the original series") from error
    if not finite or not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
        raise DataError(
            f"{path}: ImageOrientationPatient {_text(header.ImageOrientationPatient)} is not two orthogonal unit vectors"
        )


def _check_places(folder: Path, slices: Sequence[Slice], normal: np.ndarray) -> None:
    """Raise DataError for slices that are doubled, missing, unevenly spaced, or shifted against each other (gantry tilt)."""
    gaps = np.diff([s.place for s in slices])
    if not len(gaps):
        return
    if (gaps < _SAME).any():
        at = int(np.argmin(gaps))
        raise DataError(
            f"{folder}: {int((gaps < _SAME).sum())} doubled slice(s): {slices[at].path.name} and {slices[at + 1].path.name} have one "
            "position. Remove the copies; phases or echoes of one position need a folder each"
        )
    steps = np.diff([np.array(s.header.ImagePositionPatient, dtype=float) for s in slices], axis=0)
    shift = np.linalg.norm(steps - gaps[:, None] * normal, axis=1) / gaps
    if shift.max() > _TILTED:
        angle = np.degrees(np.arctan(np.median(shift)))
        raise DataError(
            f"{folder}: gantry tilt, or slices that are shifted against each other ({angle:.1f} degrees): the voxels are no boxes. "
            "Convert it with dcm2niix, which corrects the tilt"
        )
    usual = float(np.median(gaps))
    odd = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if not len(odd):
        return
    least = float(gaps.min())
    lost = np.rint(gaps / least) - 1
    at = int(np.argmax(gaps))
    where = f"between {slices[at].path.name} and {slices[at + 1].path.name}, {gaps[at]:.4g} mm apart, not {least:.4g}"
    if np.allclose(gaps, (lost + 1) * least, rtol=_UNEVEN, atol=0) and 2 * (lost == 0).sum() >= len(gaps):
        raise DataError(f"{folder}: {int(lost.sum())} missing slice(s) {where}. Fetch the whole series")
    raise DataError(f"{folder}: uneven spacing of slices: {gaps.min():.4g} to {gaps.max():.4g} mm, {where}. {_ADVICE}")


def _affine(folder: Path, slices: Sequence[Slice]) -> np.ndarray:
    """Return the affine (4, 4) to RAS mm; the gap between slices is that of the first and the last, divided by their number."""
    header = slices[0].header
    row, column = np.reshape(np.array(header.ImageOrientationPatient, dtype=float), (2, 3))
    down, across = (float(size) for size in header.PixelSpacing)  # between rows, between columns
    first, last = (np.array(s.header.ImagePositionPatient, dtype=float) for s in (slices[0], slices[-1]))
    if len(slices) > 1:
        step = (last - first) / (len(slices) - 1)
    else:
        thick = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0)
        if thick <= 0:
            raise DataError(f"{folder}: a single slice without SliceThickness; expected a series of slices")
        step = np.cross(row, column) * thick
    return affine_of(folder, np.stack([row * across, column * down, step], axis=1), first)


def _rescale(part: Slice) -> tuple[float, float]:
    try:
        slope, intercept = float(part.header.get("RescaleSlope", 1)), float(part.header.get("RescaleIntercept", 0))
    except (TypeError, ValueError) as error:
        raise DataError(f"{part.path}: RescaleSlope or RescaleIntercept is not a number; choose the original series") from error
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise DataError(f"{part.path}: found RescaleSlope {slope:g}, RescaleIntercept {intercept:g}; expected a usable factor")
    return slope, intercept


def _pixels(part: Slice) -> np.ndarray:
    """Return the stored values (rows, columns) of a slice."""
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    syntax: Any = part.header.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed:
        _use(part, syntax.name, lambda: None if get_decoder(syntax).is_available else _no_decoder())
    rows, columns = int(part.header.Rows), int(part.header.Columns)
    values = _use(part, getattr(syntax, "name", "unknown"), lambda: pydicom.dcmread(part.path).pixel_array)
    if values.shape != (rows, columns):
        raise DataError(f"{part.path}: found pixels {values.shape}, its header claims {(rows, columns)}; fetch it again")
    return values


def _no_decoder() -> None:
    raise NotImplementedError


def _use(part: Slice, syntax: str, act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns; DataError that names the transfer ``syntax`` if nothing decodes it, or that pixels are damaged."""
    try:
        with _QUIET:
            return act()
    except (NotImplementedError, ImportError) as error:
        raise DataError(
            f"{part.path}: compressed ({syntax}), and no decoder is installed; run: pip install pylibjpeg pylibjpeg-libjpeg "
            "pylibjpeg-openjpeg, or decompress the series (dcm2niix, gdcmconv --raw)"
        ) from error
    except Exception as error:  # pydicom and its decoders raise many types for damaged pixels
        raise DataError(f"{part.path}: truncated or damaged pixels ({_text(error)}); fetch it again") from error


def _is_named(path: Path) -> bool:
    """Return whether a file may be DICOM by its name: ``.dcm``, no suffix, or a name made of numbers such as ``1.2.840.10``."""
    return path.suffix.lower() in ("", ".dcm", ".ima", ".dicom") or path.suffix[1:].isdigit()


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _text(value: Any) -> str:
    return " ".join(str(value).split())[:150]
