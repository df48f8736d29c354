"""Faults of single NIfTI images: truncations, flipped bits, claims of headers, affines, voxels, scaling, special files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from metanas_med.data.nifti import read_geometry, read_image, write_label
from metanas_med.errors import UserError

from .corpus import Fault, special_files

SHAPE = (6, 7, 5)
AFFINE = np.array([[-1.5, 0, 0, 40], [0, 0.75, 0.1, -20], [0, -0.1, 3, 7], [0, 0, 0, 1.0]])
VOXELS = np.random.default_rng(27).integers(-900, 1800, SHAPE).astype(np.int16)
Right = Callable[[Any], bool]


def content_of(array: np.ndarray = VOXELS, two: bool = False, **fields: Any) -> bytes:
    """Return the bytes of a .nii file whose header fields are set to ``fields`` without any check."""
    image: Any = (nib.Nifti2Image if two else nib.Nifti1Image)(array, AFFINE, dtype=array.dtype)
    image.set_qform(AFFINE, code=1)
    image.header.set_xyzt_units("mm")
    return patched(image.to_bytes(), **fields)


def patched(content: bytes, **fields: Any) -> bytes:
    """Return NIfTI bytes with header fields set to ``fields``; a tuple (index, value) sets one element."""
    kind = nib.Nifti1Header if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else nib.Nifti2Header
    dtype = kind.template_dtype
    dtype = dtype if content[0] in (0x5C, 0x1C) else dtype.newbyteorder(">")
    header = np.frombuffer(content[: dtype.itemsize], dtype=dtype).copy()
    for field, value in fields.items():
        if isinstance(value, tuple):
            header[field][0, value[0]] = value[1]
        else:
            header[field][0] = value
    return header.tobytes() + content[dtype.itemsize :]


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return image and affine. The readers of headers must cope with the same file."""
    for use in (read_geometry, lambda p: write_label(p.with_name("out.nii.gz"), np.zeros(SHAPE, np.uint8), p)):
        try:
            use(path)
        except UserError:
            pass
    return read_image(path)


def same(array: np.ndarray = VOXELS, affine: np.ndarray | None = AFFINE) -> Right:
    """Return the check that an image (C, X, Y, Z) has the voxels of ``array`` (X, Y, Z[, C]) and, unless None, the affine."""
    expected = array[np.newaxis] if array.ndim == 3 else np.moveaxis(array, -1, 0)

    def check(found: Any) -> bool:
        return np.array_equal(found[0], expected.astype(found[0].dtype)) and (
            affine is None or np.allclose(found[1], affine, atol=1e-4)
        )

    return check


def _file(name: str, kind: str, content: bytes, right: Right | None = None, valid: bool = False, zipped: bool = False) -> Fault:
    def make(folder: Path) -> Path:
        path = folder / ("case.nii.gz" if zipped else "case.nii")
        path.write_bytes(content)
        return path

    return Fault(f"{kind}: {name}", kind, make, read, right, valid)


def _truncations() -> Iterator[Fault]:
    whole, zipped = content_of(), gzip.compress(content_of(), mtime=0)
    for kept in (0, 1, 4, 100, 347, 348, 351, 352, 353, 400, len(whole) // 2, len(whole) - 2, len(whole) - 1):
        yield _file(f".nii after {kept} bytes", "truncated NIfTI", whole[:kept])
    end = len(zipped)
    for kept in (1, 2, 5, 10, 11, 60, end // 2, end - 20, end - 9, end - 8, end - 7, end - 4, end - 1):
        yield _file(f".nii.gz after {kept} bytes", "truncated NIfTI", zipped[:kept], zipped=True)
    for kept in (100, 348, 352, 500, len(whole) - 1):
        content = gzip.compress(whole[:kept], mtime=0)
        yield _file(f"a whole gzip stream of {kept} bytes", "truncated NIfTI", content, zipped=True)


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """Return ``content`` with one bit changed."""
    broken = bytearray(content)
    broken[place] ^= 1 << bit
    return bytes(broken)


def _flips() -> Iterator[Fault]:
    zipped, random = gzip.compress(content_of(), mtime=0), np.random.default_rng(1)
    stream = sorted(random.choice(np.arange(10, len(zipped) - 8), 16, replace=False).tolist())
    for place in [*range(10), *stream, *range(len(zipped) - 8, len(zipped))]:
        bit = int(random.integers(8))
        where = "gzip header" if place < 10 else "deflate stream" if place < len(zipped) - 8 else "CRC or length"
        content = flipped(zipped, place, bit)
        yield _file(f"{where}, byte {place}, bit {bit}", "flipped bits", content, same(), zipped=True)
    # in a file without checksums only the fields that give the layout can be checked
    for field, start, size in (
        ("sizeof_hdr", 0, 4),
        ("dim", 40, 10),
        ("datatype", 70, 2),
        ("vox_offset", 108, 4),
        ("magic", 344, 4),
    ):
        for place in range(start, start + size):
            for bit in (0, 1, 6):
                if field != "dim" or bit != 6 or place % 2:
                    content = flipped(content_of(), place, bit)
                    yield _file(f"{field}, byte {place}, bit {bit}", "flipped bits of the layout", content, same())


def _claims() -> Iterator[Fault]:
    kind = "claims of the header"
    for dim in ([3, 30000, 30000, 30000], [7, *[32767] * 7], [3, 32767, 32767, 1], [4, 6, 7, 5, 32767], [3, 2000, 2000, 400]):
        value = np.array(dim + [1] * (8 - len(dim)), np.int16)
        yield _file(f"shape {dim[1:]}", kind, content_of(dim=value))
        yield _file(f"shape {dim[1:]}, zipped", kind, gzip.compress(content_of(dim=value)), zipped=True)
    for size in (2**31, 2**40, 2**62, -(2**62)):
        yield _file(f"a NIfTI-2 axis of {size}", kind, content_of(two=True, dim=(1, size)))
    yield _file(
        "NIfTI-2 axes whose product is 0 in 64 bits", kind, content_of(two=True, dim=np.array([3, 2**32, 2**32, 1, 1, 1, 1, 1]))
    )
    for axis, size in ((1, -6), (2, 0), (3, -32768), (1, 0)):
        yield _file(f"axis {axis} of {size}", kind, content_of(dim=(axis, size)))
    for number in (0, 1, 2, -1, 8, 255, 32767):
        yield _file(f"{number} axes", kind, content_of(dim=(0, number)))
    for offset in (np.nan, np.inf, -np.inf, -352, 1, 100, 336, 351, 360, 368, 1e9, 1e30, 0, 352.5):
        yield _file(f"voxels at byte {offset:g}", kind, content_of(vox_offset=offset), same())
    for offset in (-1, 2**62, 0, 100, 543):
        yield _file(f"NIfTI-2 voxels at byte {offset}", kind, content_of(two=True, vox_offset=offset), same())
    for code, name in ((0, "unknown"), (1, "bits"), (255, "all"), (9999, "undefined"), (-1, "negative")):
        yield _file(f"type {name}", kind, content_of(datatype=code))
    for bits in (0, 8, 32, -16):
        yield _file(f"{bits} bits a voxel", kind, content_of(bitpix=bits), same())
    for size in (0, 347, 349, -1, 2**31 - 1):
        yield _file(f"a header of {size} bytes", kind, content_of(sizeof_hdr=size))
    for magic in (b"", b"ni1", b"n+3", b"n-1", b"\xff\xff\xff\xff", b"n+2"):
        yield _file(f"magic {magic!r}", kind, content_of(magic=magic))


def _types() -> Iterator[Fault]:
    kind = "voxels that are no numbers"
    for dtype in ("c8", "c16", [("R", "u1"), ("G", "u1"), ("B", "u1")], [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]):
        array = np.zeros(SHAPE, dtype=dtype)
        yield _file(f"{len(array.dtype.fields)} colours" if array.dtype.fields else str(array.dtype), kind, content_of(array))
    # 16 bytes a voxel, as float128 and complex256 have
    for code, bits in ((1536, 128), (2048, 256)):
        yield _file(f"type {code}", kind, patched(content_of(), datatype=code, bitpix=bits) + bytes(210 * 32))
    for value in (np.nan, np.inf, -np.inf):
        for dtype in (np.float32, np.float64):
            array = VOXELS.astype(dtype)
            array[3, 2, 1] = value
            yield _file(f"{value} in {dtype.__name__}", kind, content_of(array))
    array = VOXELS.astype(np.float64)
    array[0, 0, 0] = 1e300
    yield _file("a value above float32", kind, content_of(array))


def _scaling() -> Iterator[Fault]:
    kind = "scaling"
    for slope, inter in ((0, 0), (0, 5), (np.nan, 0), (np.nan, np.nan), (1, 0)):
        yield _file(
            f"slope {slope}, intercept {inter}: stored values", kind, content_of(scl_slope=slope, scl_inter=inter), same()
        )
    for slope, inter in ((-1, 0), (1e-3, 0), (1e-30, 0), (2.5, -1024), (1, 1e6), (1e30, 0), (0.1, 0.1), (-2, 3)):
        right = same((VOXELS * np.float64(np.float32(slope)) + np.float64(np.float32(inter))).astype(np.float32))
        content = content_of(scl_slope=slope, scl_inter=inter)
        yield _file(f"slope {slope}, intercept {inter}", kind, content, right, valid=True)
    for slope, inter in (
        (np.inf, 0),
        (-np.inf, 0),
        (3e38, 0),
        (1, np.inf),
        (1, np.nan),
        (1, -np.inf),
        (np.inf, np.nan),
        (1e-45, 0),
    ):
        yield _file(f"slope {slope}, intercept {inter}: no numbers", kind, content_of(scl_slope=slope, scl_inter=inter))


def _any(fields: dict[str, Any]) -> dict[str, Any]:
    return fields


def _affines() -> Iterator[Fault]:
    kind = "affines"
    rows = {name: np.float32(AFFINE[number]) for number, name in enumerate(("srow_x", "srow_y", "srow_z"))}
    nothing = np.zeros(4, np.float32)
    for value in (np.nan, np.inf, -np.inf):
        yield _file(f"sform direction {value}", kind, content_of(srow_y=(1, value)))
        yield _file(f"sform origin {value}", kind, content_of(srow_z=(3, value)))
    yield _file("sform of zeros", kind, content_of(srow_x=nothing, srow_y=nothing, srow_z=nothing))
    yield _file("sform with a zero row", kind, content_of(srow_y=nothing))
    yield _file("sform with equal rows", kind, content_of(srow_x=rows["srow_y"]))
    yield _file("sform that is nearly flat", kind, content_of(srow_x=rows["srow_y"] * np.float32(1.001)))
    yield _file("sform of 1e-9 mm", kind, content_of(**_any({name: row * np.float32(1e-9) for name, row in rows.items()})))
    none: dict[str, Any] = {"sform_code": 0}
    for field in ("quatern_b", "quatern_c", "qoffset_x"):
        for value in (np.nan, np.inf):
            yield _file(f"qform {field} {value}", kind, content_of(**_any({**none, field: value})))
    yield _file("qform whose quaternion is too long", kind, content_of(**none, quatern_b=0.9, quatern_c=0.9))
    for value in (0, np.nan, np.inf):
        yield _file(f"qform, voxel size {value}", kind, content_of(**none, pixdim=(2, value)))
        yield _file(f"no form, voxel size {value}", kind, content_of(**none, qform_code=0, pixdim=(2, value)))
    yield _file("lengths in metres", kind, content_of(xyzt_units=1))
    yield _file("lengths in micrometres", kind, content_of(xyzt_units=3))


def _shapes() -> Iterator[Fault]:
    kind = "numbers of axes"
    for shape in ((6,), (6, 7), (6, 7, 5, 2, 2), (6, 7, 5, 2, 1, 2), (2, 2, 2, 2, 2, 2, 2), (6, 7, 1, 1, 2, 3)):
        yield _file(f"shape {shape}", kind, content_of(np.zeros(shape, np.int16)))
    more = np.stack([VOXELS, VOXELS[::-1]], -1)
    for shape in ((*SHAPE, 2), (*SHAPE, 1, 2), (*SHAPE, 2, 1, 1)):
        yield _file(f"shape {shape}", kind, content_of(more.reshape(shape)), same(more), valid=True)
    yield _file("one voxel", kind, content_of(VOXELS[:1, :1, :1]), same(VOXELS[:1, :1, :1]), valid=True)


def _odd_but_valid() -> Iterator[Fault]:
    kind = "odd but right NIfTI"
    whole = content_of()
    zipped = gzip.compress(whole, mtime=0)
    parts = gzip.compress(whole[:300]) + gzip.compress(b"") + gzip.compress(whole[300:500]) + gzip.compress(whole[500:])
    yield _file("gzip in a .nii", kind, zipped, same(), valid=True)
    yield _file("no gzip in a .nii.gz", kind, whole, same(), valid=True, zipped=True)
    yield _file("four gzip members", kind, parts, same(), valid=True, zipped=True)
    yield _file("zeros after the gzip stream", kind, zipped + bytes(64), same(), valid=True, zipped=True)
    yield _file("NIfTI-2", kind, content_of(two=True), same(), valid=True)
    swapped = nib.Nifti1Image(VOXELS, AFFINE).header.as_byteswapped(">")
    yield _file("big endian", kind, nib.Nifti1Image(VOXELS, AFFINE, swapped).to_bytes(), same(), valid=True)
    for dtype in (np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64):
        array = (VOXELS.astype(np.int64) % 100).astype(dtype)
        yield _file(np.dtype(dtype).name, kind, content_of(array), same(array), valid=True)
    noted = nib.Nifti1Image(VOXELS, AFFINE)
    noted.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a note" * 20))  # type: ignore[attr-defined]
    yield _file("a note before the voxels", kind, noted.to_bytes(), same(), valid=True)
    for size in (0, 7, -16, 2**31 - 1):
        content = bytearray(noted.to_bytes())
        content[352:356] = struct.pack("<i", size)
        yield _file(f"a note that claims {size} bytes", kind, bytes(content), same())


def _trailing() -> Iterator[Fault]:
    kind = "bytes after the voxels"
    whole = content_of()
    yield _file("a second file", kind, whole + whole)
    yield _file("a second zipped file", kind, gzip.compress(whole) * 2, zipped=True)
    yield _file("noise", kind, whole + b"\x5a" * 40)
    yield _file("noise after the gzip stream", kind, gzip.compress(whole) + b"\x5a" * 40, zipped=True)
    yield _file("a tag after the gzip stream", kind, gzip.compress(whole) + b"TAG", zipped=True)
    yield _file("a bomb: 1 GiB of zeros", kind, gzip.compress(whole) + gzip.compress(bytes(2**20)) * 1024, zipped=True)
    yield _file("a smaller shape than the file has", kind, content_of(dim=(3, 4)))
    yield _file("a narrower type than the file has", kind, content_of(datatype=2, bitpix=8))


def _specials() -> Iterator[Fault]:
    for name, make in special_files("case.nii.gz"):
        yield Fault(f"special files: {name} as a scan", "special files", make, read)

    def pair(folder: Path) -> Path:
        nib.save(nib.Nifti1Pair(VOXELS, AFFINE), folder / "case.img")
        return folder / "case.hdr"

    for name, content in (
        ("text", b"a scan" * 300),
        ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(900)),
        ("DICOM", bytes(128) + b"DICM" + bytes(900)),
    ):
        yield _file(name, "other formats", content)
        yield _file(f"zipped {name}", "other formats", gzip.compress(content), zipped=True)
    yield Fault("other formats: header of a pair", "other formats", pair, read)
    yield Fault("other formats: voxels of a pair", "other formats", lambda folder: pair(folder).with_suffix(".img"), read)
    yield _file("a bomb: zeros without a header", "other formats", gzip.compress(bytes(2**24)) * 64, zipped=True)


NIFTI_FAULTS = [
    fault
    for group in (_truncations, _flips, _claims, _types, _scaling, _affines, _shapes, _odd_but_valid, _trailing, _specials)
    for fault in group()
]
