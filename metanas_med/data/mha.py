"""MetaImage files (``.mha``, header and voxels in one file), read by SimpleITK.

SimpleITK fills up what a truncated file lacks, and follows the name of another file for the voxels. The header is therefore
checked before: it is text.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..parse import no_file
from .formats import affine_of, check_size, need, voxels_of

_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4, "FLOAT": 4, "DOUBLE": 8}
_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8}
_LONGEST_HEADER = 1 << 16  # bytes


def read_image(path: Path, max_voxels: int = 2**31) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(array (C, X, Y, Z), affine (4, 4) float64)``; the components of a voxel become the channels.

    Raises DataError for a damaged or truncated file, detached voxels, and anything but three axes.
    """
    sitk = need("SimpleITK", "SimpleITK", "formats", path)
    shape, channels, itemsize = _checked(path)
    check_size(path, (*shape, channels), itemsize, max_voxels)
    _check_bytes(path, math.prod(shape) * channels * itemsize)
    image = _reader(sitk, path, lambda reader: reader.Execute())
    array = np.transpose(sitk.GetArrayFromImage(image))  # (Z, Y, X) or (Z, Y, X, C): reversed
    return voxels_of(path, array[np.newaxis] if array.ndim == 3 else array), _affine(path, image)


def read_geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return ``(shape (X, Y, Z) or (X, Y, Z, channels), affine (4, 4) float64)``; reads only the header."""
    sitk = need("SimpleITK", "SimpleITK", "formats", path)
    shape, channels, _ = _checked(path)
    reader = _reader(sitk, path, lambda reader: (reader.ReadImageInformation(), reader)[1])
    return (shape if channels == 1 else (*shape, channels)), _affine(path, reader)


def _reader(sitk: Any, path: Path, use: Any) -> Any:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    try:
        return use(reader)
    except RuntimeError as error:
        raise DataError(f"{path}: damaged or not MHA ({str(error).strip().splitlines()[-1][:150]}); fetch it again") from error


def _affine(path: Path, image: Any) -> np.ndarray:
    directions = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    return affine_of(path, directions, image.GetOrigin())


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of the header, which ends with ElementDataFile, and the number of its bytes."""
    if reason := no_file(path):
        raise DataError(f"{path}: {reason}")
    try:
        with open(path, "rb") as stream:
            head = stream.read(_LONGEST_HEADER)
    except PermissionError as error:
        raise DataError(f"{path}: no read permission; change its permissions") from error
    fields, at = {}, 0
    while (end := head.find(b"\n", at)) >= 0:
        name, equals, value = head[at:end].decode("latin-1").partition("=")
        at = end + 1
        if not equals:
            break
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields, at
    raise DataError(f"{path}: not an MHA file, or its header is damaged; fetch it again")


def _checked(path: Path) -> tuple[tuple[int, int, int], int, int]:
    """Return the shape (X, Y, Z), the number of channels and the bytes of a value."""
    fields, _ = _fields(path)
    if fields["ElementDataFile"] != "LOCAL":
        raise DataError(f"{path}: its voxels are in another file, expected one file; save it as .mha, not as .mhd")
    try:
        shape = tuple(int(n) for n in fields["DimSize"].split())
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        itemsize = _BYTES[fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: the header lacks a usable DimSize or ElementType ({error}); fetch it again") from error
    if not {"ElementSpacing", "ElementSize"} & set(fields):
        raise DataError(f"{path}: the header gives no voxel size (ElementSpacing, in mm); write it")
    if len(shape) != 3:
        raise DataError(f"{path}: found {len(shape)} axes, expected three; split a series of volumes into files")
    if channels < 1:
        raise DataError(f"{path}: found {channels} channels, expected at least one")
    return (shape[0], shape[1], shape[2]), channels, itemsize


def _check_bytes(path: Path, expected: int) -> None:
    """Raise DataError unless the file holds as many bytes of voxels as its header claims."""
    fields, start = _fields(path)
    with open(path, "rb") as stream:
        stream.seek(start)
        content = stream.read()
    if fields.get("CompressedData", "False").lower() == "true":
        unpacker = zlib.decompressobj()
        try:
            found = len(unpacker.decompress(content, expected + 1))
            done = unpacker.eof or found > expected
        except zlib.error as error:
            raise DataError(f"{path}: damaged ({error}); fetch it again") from error
        if not done or found != expected:
            raise DataError(f"{path}: truncated, found {found} bytes of voxels, expected {expected}; fetch the file again")
    elif len(content) != expected:
        what = "truncated" if len(content) < expected else "damaged"
        raise DataError(f"{path}: {what}, found {len(content)} bytes of voxels, expected {expected}; fetch the file again")
