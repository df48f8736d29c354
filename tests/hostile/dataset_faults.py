"""Faults of data set folders: dataset.json, paths and links, cards, and cases whose image and label do not belong together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.scans import survey_scans
from metanas_med.errors import UserError

from .corpus import Fault, equal, make_link, special_files
from .made import CASES, PLACE, arrays_in, image_of, label_of, make_set, right_arrays, save, tree_of

Change = Callable[[Path], Any]
BROKEN = CASES[1]


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in the cache of the data set that ``path`` is in. Nothing may be written if a case is bad."""
    root = next(place for place in (path, *path.parents) if place.name == "Toy")
    cache = root.parent / "cache"
    try:
        survey_scans(root)
    except UserError:
        pass
    try:
        prepare([root], cache)
    except UserError:
        assert not list(cache.glob("*")), "files were left after an error"
        raise
    return arrays_in(cache / "Toy.h5")


def read_the_rest(path: Path) -> Any:
    """Return the arrays as ``read`` does, after it has checked that the bad case alone is listed and can be set aside."""
    try:
        return read(path)
    except BadCases as error:
        assert {row.case for row in error.rows} == {BROKEN}, error.rows
        assert all(row.problem for row in error.rows)
        root = next(place for place in (path, *path.parents) if place.name == "Toy")
        rows = prepare([root], root.parent / "cache", skip_bad=True)
        kept = arrays_in(root.parent / "cache" / "Toy.h5")
        assert same_arrays(kept, right_arrays(BROKEN)) and rows[0].cases == 2
        raise


def same_arrays(found: Any, expected: Any) -> bool:
    """Return whether two dicts of arrays are equal."""
    return found.keys() == expected.keys() and all(equal(found[name], expected[name]) for name in expected)


def right(found: Any) -> bool:
    """Return whether nothing was lost or changed."""
    return same_arrays(found, right_arrays())


def _json(name: str, change: Callable[[dict[str, Any]], Any], accept: Any = None, valid: bool = False, **more: Any) -> Fault:
    """Return the fault that ``change`` makes in the tree of dataset.json; it may return another tree, or the text itself."""

    def make(folder: Path) -> Path:
        root, tree = make_set(folder), tree_of()
        changed = change(tree)
        content = changed if isinstance(changed, (str, bytes)) else json.dumps(tree if changed is None else changed[0])
        (root / "dataset.json").write_bytes(content.encode() if isinstance(content, str) else content)
        return root / "dataset.json"

    kind = more.pop("kind", "dataset.json")
    return Fault(f"{kind}: {name}", kind, make, read, accept, valid, **more)


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree.__setitem__(key, value)


VALUES: tuple[tuple[str, Any], ...] = (
    ("null", None), ("a number", 5), ("a fraction", 1.5), ("text", "text"), ("true", True), ("an empty list", []),
    ("a list of lists", [[1, [2]]]), ("an empty object", {}), ("an object", {"a": {"b": 1}}), ("an infinite number", 1e999),
)  # fmt: skip


def _types() -> Iterator[Fault]:
    for key in ("training", "labels", "modality"):
        for what, value in VALUES:
            yield _json(f"{key} is {what}", _set(key, value), None)
        yield _json(f"{key} is absent", lambda tree, key=key: tree.pop(key) and None)
    for key in ("test", "name", "description", "licence"):  # an odd value of these does no harm
        for what, value in VALUES:
            yield _json(f"{key} is {what}", _set(key, value), right)
    for what, value in VALUES:
        yield _json(f"an entry is {what}", lambda tree, value=value: tree["training"].__setitem__(1, value), named=False)
        for key in ("image", "label"):
            yield _json(
                f"the {key} of an entry is {what}", lambda t, k=key, v=value: t["training"][1].__setitem__(k, v), named=False
            )


def _labels() -> Iterator[Fault]:
    for value in (
        1.5,
        True,
        "one",
        256,
        -1,
        1e999,
        [1],
        None,
        {"a": 1},
        10**400,
        "1" * 4000,
        "1" * 5000,
        "1_0",
        "٣",
        " 1",
        "0x1",
        "1.0",
    ):
        name = f"{repr(value)[:20]} of {len(str(value))} characters" if len(str(value)) > 20 else repr(value)
        yield _json(f"a label of value {name}", _set("labels", {"background": 0, "first": value, "second": 2}), right)
        yield _json(f"a label of key {name}", _set("labels", {"0": "background", str(value): "first", "2": "second"}), right)
    yield _json("two names for one value", _set("labels", {"first": 1, "other": 1, "second": 2}))
    yield _json("one name for two values", _set("labels", {"1": "first", "2": "first"}))
    yield _json("only the background", _set("labels", {"0": "background"}))
    yield _json("a name of 1 MB", _set("labels", {"0": "background", "1": "a" * 2**20, "2": "second"}), right)
    for what, key in (("a word", "first"), ("minus one", "-1"), ("a fraction", "0.5"), ("5000 digits", "1" * 5000)):
        yield _json(f"a channel called {what}", _set("modality", {key: "CT"}), right)


def _texts() -> Iterator[Fault]:
    whole = json.dumps(tree_of())
    yield _json("empty", lambda tree: "")
    yield _json("a byte order mark", lambda tree: "\ufeff" + whole, right, valid=True)
    for code in ("utf-16", "utf-16-le", "utf-32"):
        yield _json(code, lambda tree, code=code: whole.encode(code))
    yield _json("Latin-1", lambda tree: json.dumps({**tree, "description": "Größe"}, ensure_ascii=False).encode("latin-1"))
    for kept in (1, 20, len(whole) // 2, len(whole) - 1):
        yield _json(f"after {kept} characters", lambda tree, kept=kept: whole[:kept])
    yield _json("NUL bytes after it", lambda tree: whole + "\0" * 20)
    yield _json("a NUL byte inside", lambda tree: whole.replace("Toy", "T\0y"))
    yield _json("a comma too many", lambda tree: whole[:-1] + ",}")
    yield _json("a comment", lambda tree: "// a comment\n" + whole)
    yield _json("single quotes", lambda tree: whole.replace('"', "'"))
    yield _json("two objects", lambda tree: whole + whole)
    for what, text in (("[", "["), ('{"a":', '{"a":'), ("[[],", "[[],")):
        yield _json(f"100000 times {what}", lambda tree, text=text: text * 100_000)
    yield _json("a list nested 900 deep", lambda tree: whole[:-1] + ', "licence": ' + "[" * 900 + "]" * 900 + "}", right)
    yield _json("a number of 5000 digits", lambda tree: whole[:-1] + ', "release": ' + "9" * 5000 + "}", right)
    for what, text in (("a list", "[]"), ("a number", "5"), ("text", '"x"'), ("null", "null"), ("true", "true"), ("NaN", "NaN")):
        yield _json(f"{what} instead of an object", lambda tree, text=text: text)
    yield _json("labels twice", lambda tree: whole[:-1] + ', "labels": {"1": "second", "2": "first"}}')
    yield _json("training twice", lambda tree: whole[:-1] + ', "training": ' + json.dumps(tree["training"][:2]) + "}")
    yield _json("a label twice", lambda tree: whole.replace('"1": "first"', '"1": "first", "1": "third"'))
    yield _json("the modality twice", lambda tree: whole.replace('"0": "CT"', '"0": "CT", "0": "MRI"'))
    for name, make in special_files("dataset.json"):

        def made(folder: Path, make: Any = make) -> Path:
            root = make_set(folder)
            (root / "dataset.json").unlink()
            return make(root)

        yield Fault(f"dataset.json: {name} in its place", "dataset.json", made, read)


def _paths() -> Iterator[Fault]:
    """Paths in dataset.json that leave the folder or cannot be paths; nothing outside may be read."""
    kind = "paths and links"
    for what, text in (
        ("..", "../secret.nii.gz"), (".. inside", "./imagesTr/../../secret.nii.gz"), ("an absolute path", "{out}/secret.nii.gz"),
        ("backslashes", "..\\secret.nii.gz"), ("a drive", "C:/secret.nii.gz"), ("a NUL byte", "./imagesTr/case_1\0.nii.gz"),
        ("a name of 5000 letters", "./imagesTr/" + "a" * 5000 + ".nii.gz"), ("5000 folders", "a/" * 5000 + "x.nii.gz"),
        ("half a character", "./imagesTr/\ud800.nii.gz"), ("lines", "./imagesTr/a\nb\nc\nd.nii.gz"), ("escapes", "./imagesTr/\x1b[2J.nii.gz"),
        ("a folder", "./imagesTr"), ("the folder itself", "."), ("a home folder", "~/secret.nii.gz"), ("an address", "file:///etc/passwd"),
        ("a variable", "$HOME/secret.nii.gz"), ("nothing", ""), ("a space", " "), ("a file that is absent", "./imagesTr/none.nii.gz"),
        ("a file below a file", "./dataset.json/x.nii.gz"), ("dots", "./imagesTr/...nii.gz"),
    ):  # fmt: skip
        for key in ("image", "label"):

            def make(folder: Path, key: str = key, text: str = text) -> Path:
                root, tree = make_set(folder), tree_of()
                save(folder / "secret.nii.gz", image_of(7) if key == "image" else label_of(1))
                tree["training"][1][key] = text.replace("{out}", str(folder))
                (root / "dataset.json").write_text(json.dumps(tree))
                return root

            yield Fault(f"{kind}: {what} as {key}", kind, make, read)
    for what, link in (
        ("a file outside", lambda root: make_link(root / "imagesTr/case_1.nii.gz", root.parent / "secret.nii.gz")),
        ("a relative file outside", lambda root: make_link(root / "imagesTr/case_1.nii.gz", "../../secret.nii.gz")),
        ("a link outside", lambda root: make_link(root / "imagesTr/case_1.nii.gz", make_link(root / "hop", "../secret.nii.gz").resolve())),
        ("another case", lambda root: make_link(root / "imagesTr/case_1.nii.gz", "../labelsTr")),
    ):  # fmt: skip
        yield _case(
            f"a link to {what}", lambda root, link=link: (save(root.parent / "secret.nii.gz", image_of(7)), link(root)), kind
        )
    for name, maker in special_files("case_1.nii.gz"):
        for place in ("imagesTr", "labelsTr"):

            def special(root: Path, make: Any = maker, place: str = place) -> None:
                (root / place / "case_1.nii.gz").unlink(missing_ok=True)
                make(root / place)

            yield _case(f"{name} in {place}", special, kind, keep=True)

    def outside(folder: Path) -> Path:
        root = make_set(folder)
        (root / "imagesTr").rename(folder / "elsewhere")
        make_link(root / "imagesTr", folder / "elsewhere")
        return root

    yield Fault(f"{kind}: a folder of images that is a link", kind, outside, read)


def _case(what: str, change: Change, kind: str, keep: bool = False) -> Fault:
    """Return the fault of one case, whose files ``change`` replaces in the folder; the others must be kept."""

    def make(folder: Path) -> Path:
        root = make_set(folder)
        if not keep:
            (root / "imagesTr/case_1.nii.gz").unlink()
        change(root)
        return root / BROKEN

    return Fault(f"{kind}: {what}", kind, make, read_the_rest)


def _pairs() -> Iterator[Fault]:
    kind = "image and label that differ"

    def replaced(place: str, array: np.ndarray, affine: np.ndarray = PLACE) -> Change:
        return lambda root: save(root / place / f"{BROKEN}.nii.gz", array, affine)

    image, label = image_of(1), label_of(1)
    changes: dict[str, Change] = {}
    for axis in range(3):
        short = np.delete(label, -1, axis)
        changes[f"a label without the last plane of axis {axis}"] = replaced("labelsTr", short)
        moved, turned = PLACE.copy(), PLACE.copy()
        moved[axis, 3] += 1
        one, other = (a for a in range(3) if a != axis)
        turned[[one, one, other, other], [one, other, one, other]] = np.array([0.8, -0.6, 0.6, 0.8])
        changes[f"a label moved along axis {axis}"] = replaced("labelsTr", label, moved)
        changes[f"a label turned around axis {axis}"] = replaced("labelsTr", label, turned)
        changes[f"a label of voxels that are larger along axis {axis}"] = replaced(
            "labelsTr", label, PLACE @ np.diag(np.eye(4)[axis] * 0.2 + 1)
        )
    changes["a label with two channels"] = replaced("labelsTr", np.stack([label, label], -1))
    changes["an image with two channels"] = replaced("imagesTr", np.stack([image, image], -1))
    changes["an image with 40 channels"] = replaced("imagesTr", np.stack([image] * 40, -1))
    changes["a slice for an image"] = replaced("imagesTr", image[..., 0])
    changes["a slice for a label"] = replaced("labelsTr", label[..., 0])
    for value in (3, 7, 255):
        changes[f"a label value {value} that dataset.json lacks"] = replaced(
            "labelsTr", np.where(label == 2, value, label).astype(np.uint8)
        )
    for value in (0.5, -1.0, 256.0, 1e20, np.nan, np.inf, 1e300):
        changes[f"a label value {value}"] = replaced("labelsTr", np.where(label == 2, value, label).astype(np.float64))
    for value, dtype in ((-1, np.int16), (300, np.int32), (2**40, np.int64), (2**63, np.uint64), (256, np.uint16)):
        changes[f"a label value {value} in {dtype.__name__}"] = replaced(
            "labelsTr", np.where(label == 2, dtype(value), label.astype(dtype))
        )
    changes["the image for the label"] = replaced("labelsTr", image)
    changes["a label that was resampled linearly"] = replaced("labelsTr", (label * np.float32(0.7)).astype(np.float32))
    changes["voxels a hundred times larger"] = lambda root: (
        save(root / f"imagesTr/{BROKEN}.nii.gz", image, np.diag([100, 150, 200, 1])),
        save(root / f"labelsTr/{BROKEN}.nii.gz", label, np.diag([100, 150, 200, 1])),
    )
    changes["no label"] = lambda root: (root / f"labelsTr/{BROKEN}.nii.gz").unlink()
    changes["no image"] = lambda root: (root / f"imagesTr/{BROKEN}.nii.gz").unlink()
    for what, change in changes.items():
        yield _case(what, change, kind, keep=True)

    def twice(folder: Path) -> Path:
        root, tree = make_set(folder), tree_of()
        tree["training"].append(tree["training"][0])
        (root / "dataset.json").write_text(json.dumps(tree))
        return root / CASES[0]

    def three_channels(folder: Path) -> Path:
        root = make_set(folder)
        tree = {**tree_of(), "modality": {"0": "CT", "1": "MRI", "2": "PET"}}
        (root / "dataset.json").write_text(json.dumps(tree))
        return root

    def unreadable(folder: Path) -> Path:
        root = make_set(folder)
        (root / f"imagesTr/{BROKEN}.nii.gz").chmod(0)
        return root / f"imagesTr/{BROKEN}.nii.gz"

    yield Fault(f"{kind}: a case listed twice", kind, twice, read)
    yield Fault(f"{kind}: three channels that no image has", kind, three_channels, read)
    if os.geteuid():  # root may read everything
        yield Fault(f"{kind}: a scan without read permission", kind, unreadable, read_the_rest)


DATASET_FAULTS = [fault for group in (_types, _labels, _texts, _paths, _pairs) for fault in group()]
