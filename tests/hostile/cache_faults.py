"""Faults of HDF5 caches: links and storage outside the file, wrong types and shapes, damage, and descriptions that lie."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from metanas_med.data.cache import prepare
from metanas_med.data.cached import open_cache, open_caches

from .corpus import Fault, Read, special_files
from .dataset_faults import same_arrays
from .made import CASES, GRID, image_of, label_of, make_set, right_arrays
from .nifti_faults import flipped

IMAGE, LABEL = f"images/{CASES[1]}", f"labels/{CASES[1]}"
Change = Callable[[h5py.File, Path], Any]


@lru_cache
def whole() -> bytes:
    """Return the bytes of a right cache."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare([make_set(Path(scratch))], Path(scratch) / "cache")
        return (Path(scratch) / "cache" / "Toy.h5").read_bytes()


@lru_cache
def chunks() -> dict[str, tuple[int, int]]:
    """Return (first byte, number of bytes) of the chunk of each array of the right cache."""
    with h5py.File(io.BytesIO(whole()), "r") as file:
        names = ["meta", *(f"{kind}/{case}" for kind in ("images", "labels") for case in CASES)]
        found = {name: file[name].id.get_chunk_info(0) for name in names}
    return {name: (info.byte_offset, info.size) for name, info in found.items()}


def read(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays through the package's own reader."""
    cache = open_cache(path)
    found = {f"images/{case.name}": cache.image(case.name) for case in cache.cases}
    for case in cache.cases:
        cache.channel(case.name, 0, (slice(0, 2),) * 3)
        assert cache.lazy_image(case.name).shape == found[f"images/{case.name}"].shape
    return {**found, **{f"labels/{case.name}": cache.label(case.name) for case in cache.cases}}


def right(found: Any) -> bool:
    """Return whether all arrays have the values of the data set."""
    return same_arrays(found, {name: array for name, array in right_arrays().items()})


def _bytes(name: str, kind: str, content: Callable[[], bytes], accept: Any = None, reader: Read = read) -> Fault:
    def make(folder: Path) -> Path:
        (folder / "Toy.h5").write_bytes(content())
        return folder / "Toy.h5"

    return Fault(f"{kind}: {name}", kind, make, reader, accept)


def _edit(name: str, kind: str, change: Change, accept: Any = None, valid: bool = False) -> Fault:
    def make(folder: Path) -> Path:
        path = folder / "Toy.h5"
        path.write_bytes(whole())
        with h5py.File(path, "r+") as file:
            change(file, folder)
        return path

    return Fault(f"{kind}: {name}", kind, make, read, accept, valid)


def _replace(name: str, **fields: Any) -> Change:
    """Return the change that puts another array at ``name``."""

    def change(file: h5py.File, folder: Path) -> None:
        del file[name]
        file.create_dataset(name, **fields)

    return change


def _link(name: str, link: Callable[[Path], Any]) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        (folder / "other.h5").write_bytes(whole())
        with h5py.File(folder / "other.h5", "r+") as other:
            del other[IMAGE]
            other[IMAGE] = image_of(9)[np.newaxis]
        del file[name]
        file[name] = link(folder)

    return change


def _damaged() -> Iterator[Fault]:
    kind = "damaged cache"
    size = 40_000
    for kept in (0, 1, 8, 100, 600, 2048, 5000, 10_000, 20_000):
        yield _bytes(f"after {kept} bytes", kind, lambda kept=kept: whole()[:kept])
    for lost in (1, 100, 1000):
        yield _bytes(f"without the last {lost} bytes", kind, lambda lost=lost: whole()[:-lost])
    for name in ["meta", *(f"{place}/{case}" for place in ("images", "labels") for case in CASES)]:
        for share in (0.1, 0.9):
            yield _bytes(f"{share:.0%} into the values of {name}", kind, lambda name=name, share=share: _hurt(name, share))
    random = np.random.default_rng(3)
    for place in sorted(random.choice(size, 60, replace=False).tolist()):
        bit = int(random.integers(8))
        yield _bytes(f"bit {bit} of byte {place}", kind, lambda p=place, b=bit: flipped(whole(), p % len(whole()), b), right)
    for start in (0, 512, 2048, 4096):
        content = random.bytes(256)
        yield _bytes(f"noise at byte {start}", kind, lambda s=start, c=content: whole()[:s] + c + whole()[s + len(c) :], right)
    for name, content in (
        ("text", b"cache" * 200),
        ("zip", b"PK\3\4" + bytes(200)),
        ("the signature alone", b"\x89HDF\r\n\x1a\n" + bytes(600)),
    ):
        yield _bytes(name, kind, lambda content=content: content)
    yield _bytes("bytes before it", kind, lambda: bytes(512) + whole(), right)
    yield _bytes("bytes after it", kind, lambda: whole() + bytes(512), right)
    for name, make in special_files("Toy.h5"):
        yield Fault(f"{kind}: {name}", kind, make, read)


def _hurt(name: str, share: float) -> bytes:
    start, size = chunks()[name]
    return flipped(whole(), start + int(size * share), 3)


def _outside() -> Iterator[Fault]:
    kind = "cache that reads elsewhere"
    links: dict[str, Callable[[Path], Any]] = {
        "an external link": lambda folder: h5py.ExternalLink("other.h5", IMAGE),
        "an external link with a path": lambda folder: h5py.ExternalLink(str(folder / "other.h5"), IMAGE),
        "an external link that dangles": lambda folder: h5py.ExternalLink("none.h5", IMAGE),
        "an external link to the same file": lambda folder: h5py.ExternalLink("Toy.h5", f"images/{CASES[0]}"),
        "an external link to a text file": lambda folder: h5py.ExternalLink("/etc/passwd", "x"),
        "a soft link to another case": lambda folder: h5py.SoftLink(f"/images/{CASES[0]}"),
        "a soft link that dangles": lambda folder: h5py.SoftLink("/nothing"),
        "a soft link to itself": lambda folder: h5py.SoftLink(f"/{IMAGE}"),
    }
    for name, link in links.items():
        yield _edit(f"{name} for an image", kind, _link(IMAGE, link))
    for place in ("meta", "images", "labels", LABEL):
        yield _edit(
            f"an external link for {place}", kind, _link(place, lambda folder, place=place: h5py.ExternalLink("other.h5", place))
        )
    shape = (1, *GRID)
    for name, dtype in ((IMAGE, np.int16), (LABEL, np.uint8)):
        size = GRID if name == LABEL else shape
        yield _edit(
            f"{name} in /etc/passwd",
            kind,
            _replace(name, shape=size, dtype=dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]),
        )
        yield _edit(f"{name} in /dev/zero", kind, _replace(name, shape=size, dtype=dtype, external=[("/dev/zero", 0, 10**6)]))
    yield _edit("meta in a raw file", kind, _replace("meta", shape=(100,), dtype=np.uint8, external=[("/etc/passwd", 0, 100)]))

    def virtual(file: h5py.File, folder: Path) -> None:
        layout = h5py.VirtualLayout(shape=shape, dtype=np.int16)
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), IMAGE, shape=shape)
        del file[IMAGE]
        file.create_virtual_dataset(IMAGE, layout, fillvalue=-1)

    def own(file: h5py.File, folder: Path) -> None:
        layout = h5py.VirtualLayout(shape=shape, dtype=np.int16)
        layout[:] = h5py.VirtualSource(".", f"images/{CASES[0]}", shape=shape)
        del file[IMAGE]
        file.create_virtual_dataset(IMAGE, layout)

    yield _edit("a virtual image", kind, virtual)
    yield _edit("a virtual image of another case", kind, own)


def _arrays() -> Iterator[Fault]:
    kind = "cache with wrong arrays"
    image, label = image_of(1)[np.newaxis], label_of(1)
    for dtype in ("f2", "c8", "O", "S8", "?", "V4", [("a", "i2"), ("b", "i2")]):
        data = np.full(image.shape, b"x", "S8") if dtype == "S8" else np.full(image.shape, "x", object) if dtype == "O" else image
        if dtype == "V4":
            data = np.zeros(image.shape, "V4")
        elif isinstance(dtype, list):
            data = np.zeros(image.shape, dtype)
        elif dtype not in ("S8", "O"):
            data = image.astype(dtype)
        fields = {"dtype": h5py.string_dtype()} if dtype == "O" else {}
        yield _edit(f"an image of type {dtype}", kind, _replace(IMAGE, data=data, **fields), right if dtype == "f2" else None)
    yield _edit("an image of big-endian numbers", kind, _replace(IMAGE, data=image.astype(">i2")), right, valid=True)
    ragged = h5py.vlen_dtype(np.int16)
    yield _edit("an image of ragged rows", kind, _replace(IMAGE, shape=image.shape, dtype=ragged))
    yield _edit("an image of references", kind, _replace(IMAGE, shape=image.shape, dtype=h5py.ref_dtype))
    for dtype in ("i2", "f4", "i1", "u2", "?", "S1"):
        yield _edit(f"a label of type {dtype}", kind, _replace(LABEL, data=label.astype(dtype)))
    shapes: dict[str, Any] = {
        "a plane less": image[..., :-1],
        "a plane more": np.concatenate([image, image[..., :1]], -1),
        "axes swapped": image.transpose(0, 3, 2, 1),
        "no channel axis": image[0],
        "two channels": np.concatenate([image, image]),
        "an axis more": image[None],
        "no voxels": image[:0],
        "one number": np.int16(5),
        "one axis": image.ravel(),
    }
    for name, array in shapes.items():
        yield _edit(f"an image with {name}", kind, _replace(IMAGE, data=array))
    for name, array in {
        "a plane less": label[:-1],
        "axes swapped": label.T,
        "a channel axis": label[None],
        "one number": np.uint8(1),
    }.items():
        yield _edit(f"a label with {name}", kind, _replace(LABEL, data=array))
    yield _edit("an image of nothing", kind, _replace(IMAGE, data=h5py.Empty("i2")))
    yield _edit("an image that was never written", kind, _replace(IMAGE, shape=image.shape, dtype="i2", chunks=(1, 8, 9, 7)))
    yield _edit("a label that was never written", kind, _replace(LABEL, shape=GRID, dtype="u1", chunks=GRID, fillvalue=1))
    yield _edit(
        "an image of 98 TiB", kind, _replace(IMAGE, shape=(1, 36_000, 36_000, 36_000), dtype="i2", chunks=(1, 32, 32, 32))
    )
    yield _edit("an image of 2 GiB that was never written", kind, _lying_shape)
    yield _edit("a filter that is not installed", kind, _unknown_filter)
    for name in (IMAGE, LABEL, "images", "labels", "meta"):
        yield _edit(f"no {name}", kind, lambda file, folder, name=name: file.__delitem__(name))
        yield _edit(
            f"a group for {name}", kind, lambda file, folder, name=name: (file.__delitem__(name), file.create_group(name))
        )
    for name in ("images", "labels"):
        yield _edit(f"an array for {name}", kind, _replace(name, data=np.zeros(5)))


def _lying_shape(file: h5py.File, folder: Path) -> None:
    _replace(IMAGE, shape=(1, 1024, 1024, 1024), dtype="i2", chunks=(1, 32, 32, 32))(file, folder)
    _write_meta(file, lambda meta: meta["cases"][1].update(shape=[1024] * 3))


def _unknown_filter(file: h5py.File, folder: Path) -> None:
    del file[IMAGE]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, *GRID))
    plist.set_filter(307, h5py.h5z.FLAG_OPTIONAL, (5,))
    made = h5py.h5d.create(file["images"].id, CASES[1].encode(), h5py.h5t.NATIVE_INT16, h5py.h5s.create_simple((1, *GRID)), plist)
    made.write_direct_chunk((0, 0, 0, 0), image_of(1).tobytes())


def _write_meta(file: h5py.File, change: Callable[[dict[str, Any]], Any]) -> None:
    stored: Any = file["meta"]
    meta = json.loads(stored[()].tobytes())
    text = change(meta)
    content = text if isinstance(text, bytes) else json.dumps(text[0] if isinstance(text, tuple) else meta).encode()
    del file["meta"]
    data = np.frombuffer(content, np.uint8)
    file.create_dataset("meta", data=data, **({"chunks": data.shape, "fletcher32": True} if len(data) else {}))


def _meta(name: str, change: Callable[[dict[str, Any]], Any], accept: Any = None) -> Fault:
    return _edit(name, "cache with a wrong description", lambda file, folder: _write_meta(file, change), accept)


ODD: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("a number", 5),
    ("text", "text"),
    ("an empty list", []),
    ("a list of lists", [[1, [2]]]),
    ("an object", {"a": {"b": 1}}),
    ("infinite", 1e999),
    ("true", True),
)
#: keys where one of these values does no harm: what is read stays right
FREE = {"name": ("text",), "group": ("text",), "patient": ("text",), "content_hash": ("text",), "patients_known": ("true",)}
FREE |= {"related": ("an empty list",), "num_channels": ()}


def _descriptions() -> Iterator[Fault]:
    for key in (
        "name",
        "group",
        "related",
        "modality",
        "labels",
        "given_labels",
        "patients_known",
        "cases",
        "set_aside",
        "source",
    ):
        yield _meta(f"no {key}", lambda meta, key=key: meta.pop(key) and None)
        for what, value in ODD:
            accept = right if what in FREE.get(key, ()) or (key in ("set_aside", "source") and what == "an empty list") else None
            yield _meta(f"{key} is {what}", lambda meta, key=key, value=value: meta.__setitem__(key, value), accept)
    for key in ("name", "patient", "shape", "spacing", "affine", "content_box", "num_channels", "label_voxels", "content_hash"):
        yield _meta(f"a case without {key}", lambda meta, key=key: meta["cases"][1].pop(key) and None)
        for what, value in ODD:
            accept = right if what in FREE.get(key, ()) and key != "name" else None
            yield _meta(
                f"{key} of a case is {what}", lambda meta, key=key, value=value: meta["cases"][1].__setitem__(key, value), accept
            )
    values: dict[str, tuple[str, Any]] = {
        "a spacing of zero": ("spacing", [0, 1, 1]),
        "a negative spacing": ("spacing", [-1, 1, 1]),
        "a spacing of two axes": ("spacing", [1, 1]),
        "a spacing of 1e300": ("spacing", [1e300, 1, 1]),
        "a shape of zeros": ("shape", [0, 0, 0]),
        "a negative shape": ("shape", [-8, 9, 7]),
        "a shape of fractions": ("shape", [8.0, 9.5, 7]),
        "another shape": ("shape", [7, 9, 8]),
        "a huge shape": ("shape", [2**40] * 3),
        "an affine of three rows": ("affine", [[1, 0, 0, 0]] * 3),
        "a flat affine": ("affine", [[0] * 4] * 4),
        "no numbers in the affine": ("affine", [["a"] * 4] * 4),
        "a box outside": ("content_box", [[0, 99], [0, 9], [0, 7]]),
        "a box turned round": ("content_box", [[5, 2], [0, 9], [0, 7]]),
        "a negative box": ("content_box", [[-3, 8], [0, 9], [0, 7]]),
        "a box of two axes": ("content_box", [[0, 8], [0, 9]]),
        "no channel": ("num_channels", 0),
        "two channels": ("num_channels", 2),
        "10**400 channels": ("num_channels", 10**400),
        "negative voxels": ("label_voxels", {"1": -5}),
        "voxels of a word": ("label_voxels", {"a": 5}),
        "voxels of an unknown label": ("label_voxels", {"77": 5}),
        "the name of another case": ("name", CASES[0]),
        "a name with ..": ("name", "../../x"),
        "a name with a slash": ("name", "a/b"),
        "a name with a NUL": ("name", "a\0b"),
        "an absolute name": ("name", "/images/case_0"),
        "an empty name": ("name", ""),
        "a name of one dot": ("name", "."),
    }
    for what, (key, value) in values.items():
        yield _meta(f"a case with {what}", lambda meta, key=key, value=value: meta["cases"][1].__setitem__(key, value))
    yield _meta("a data set called ../../x", lambda meta: meta.__setitem__("name", "../../x"))
    yield _meta("no case", lambda meta: meta.__setitem__("cases", []))
    for what, text in (
        ("nothing", b""),
        ("text", b"not JSON"),
        ("a list", b"[]"),
        ("null", b"null"),
        ("a number", b"5"),
        ("NaN", b"NaN"),
        ("100000 open lists", b"[" * 100_000),
        ("half of it", b'{"name": "Toy", "cases": [{"na'),
        ("UTF-16", "{}".encode("utf-16")),
        ("a number of 5000 digits", b"9" * 5000),
        ("NUL bytes", bytes(100)),
    ):
        yield _meta(f"{what} instead of it", lambda meta, text=text: text)
    kind = "cache with a wrong description"
    yield _edit("meta as text", kind, _replace("meta", data="{}"))
    yield _edit("meta of 2 GiB that was never written", kind, _replace("meta", shape=(2**31,), dtype="u1", chunks=(2**20,)))
    yield _edit("meta of numbers", kind, _replace("meta", data=np.arange(10.0)))
    for version in (1, 3, 99, -2, "2", "x" * 10_000, np.nan, [2, 2], b"2", None):

        def change(file: h5py.File, folder: Path, version: Any = version) -> None:
            del file.attrs["format"]
            if version is not None:
                file.attrs["format"] = version

        yield _edit(f"format {str(version)[:12]!r} ({type(version).__name__})", kind, change)

    def twice(folder: Path) -> Path:
        for name in ("Toy.h5", "Copy.h5"):
            (folder / name).write_bytes(whole())
        return folder / "Toy.h5"

    yield Fault(f"{kind}: two files of one name", kind, twice, lambda path: open_caches(path.parent))


CACHE_FAULTS = [fault for group in (_damaged, _outside, _arrays, _descriptions) for fault in group()]
