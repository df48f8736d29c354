"""Folders in layouts that are not read: nnU-Net's is recognised for every command, and others are described in the error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..parse import Unreadable, read_json
from .case_names import SUFFIXES, without_suffix
from .dicom import is_dicom_folder
from .nnunet import keys_of_nnunet
from .volumes import read_geometry

_CHANNEL_FILE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})\.(nii(\.gz)?|nrrd|mha)")
#: more files of one name and consecutive numbers are scans, not channels: in all, and where no second case confirms it
_MOST_CHANNELS, _MOST_OF_ONE_CASE = 16, 4
_SCAN_FOLDERS = ("imagesTr", "imagesTs")


def refuse_nnunet(root: Path, tree: Mapping[str, Any] | None = None) -> None:
    """Raise DataError for a folder with one file per channel, ``CASE_0000.nii.gz``, whose dataset.json is not that of nnU-Net v2.

    ``tree`` is the content of its dataset.json, if it has one. A list under 'training' decides what is read, so channel files
    that it names are scans; but a listed image that exists only as ``CASE_0000`` (nnU-Net v1), and a label that two channel files
    share, are nnU-Net's.
    """
    if tree is not None and _lists_scans(tree):
        _refuse_listed(root, tree.get("training"))
        return
    images = [path for folder in _SCAN_FOLDERS for path in volume_files(root / folder)]
    channels = _channels([path.name for path in images])
    keys = keys_of_nnunet(tree) if tree is not None else []
    if keys or channels:
        files = f"; {_described(channels)}" if channels else ""
        what = "no dataset.json" if tree is None else f"dataset.json has {_listed(keys) or 'no list of scans'} and no 'training'"
        raise _nnunet(root, f"{what}{files}")


def channel_groups(files: Sequence[Path], single: bool = True) -> dict[str, tuple[Path, ...]]:
    """Return the files of each case, one a channel, if all ``files`` are channel files of nnU-Net; else nothing.

    They are if they lie in the folder of images of a data set of nnU-Net. Elsewhere consecutive numbers from ``_0000`` can also
    count scans: files of one case must share a grid. ``single``: a single file that ends with ``_0000`` counts, too.
    """
    channels = _channels([file.name for file in files])
    if not channels:
        return {}
    by_case: dict[str, list[Path]] = {}
    for file in sorted(files):
        by_case.setdefault(case_of_channel(file.name), []).append(file)
    groups = {case: tuple(own) for case, own in by_case.items()}
    if all(_is_of_nnunet(folder) for folder in {file.parent for file in files}):
        return groups
    most = max(map(len, channels.values()))
    if (len(files) == 1 and not single) or most > (_MOST_CHANNELS if len(channels) > 1 else _MOST_OF_ONE_CASE):
        return {}
    return groups if all(map(_share_a_grid, by_case.values())) else {}


def _is_of_nnunet(folder: Path) -> bool:
    """Return whether a folder holds the images of a data set of nnU-Net v2."""
    tree = lenient_tree(folder.parent / "dataset.json") if folder.name.startswith("images") else None
    return tree is not None and not _lists_scans(tree) and bool(keys_of_nnunet(tree))


def case_of_channel(name: str) -> str:
    """Return the case of a channel file of nnU-Net (``a_0001.nii.gz``: ``a``), or an empty string."""
    match = _CHANNEL_FILE.fullmatch(name)
    return match["case"] if match else ""


def found_instead(root: Path) -> str:
    """Return what a folder without dataset.json holds, as the end of a sentence; empty if that is nothing known."""
    if not root.is_dir():
        return ""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if inner := [folder.name for folder in folders if (folder / "dataset.json").is_file()]:
        return f"{len(inner)} data set folder(s) in it: {_some(inner)}; name these"
    stems = {folder: {without_suffix(path.name): path.name for path in volume_files(folder)} for folder in folders}
    for images in folders:
        for labels in folders:
            both = sorted(set(stems[images]) & set(stems[labels]))
            if both and _sounds_like_labels(labels.name) and not _sounds_like_labels(images.name):
                return f"{len(both)} pair(s) of one name in {images.name} and {labels.name}, such as {stems[images][both[0]]}{_PREPARE}"
    files = [path.name for path in volume_files(root)]
    if flat := _flat_pairs(files):
        return f"{len(flat)} pair(s) such as {flat[0][0]} and {flat[0][1]}{_PREPARE}"
    names = [set(own.values()) for own in stems.values() if own]
    if len(names) > 1 and (shared := sorted(set.intersection(*names))):
        inside = next(folder.name for folder, own in stems.items() if own)
        return f"{len(names)} folders with files of the same names, such as {' and '.join(f'{inside}/{n}' for n in shared[:2])}{_LIST}"
    if files or any(stems.values()):
        return f"{len(files) + sum(map(len, stems.values()))} scan(s) and no pairs of scan and label map"
    if is_dicom_folder(root):
        return "a DICOM series, which is one scan and no data set"
    return ""


def volume_files(folder: Path) -> list[Path]:
    """Return the scans (or label maps) of a folder by name: files that can be read, and folders of DICOM; none if it is absent.

    Hidden ones are left out.
    """
    if not folder.is_dir():
        return []
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(p for p in shown if (p.name.endswith(SUFFIXES) and is_file_or_lost(p)) or is_dicom_folder(p))


def is_file_or_lost(path: Path) -> bool:
    """Return whether a path is a file, or a link whose target is gone: its scan must be missed, not passed over."""
    return path.is_file() or (path.is_symlink() and not path.exists())


_LIST = "; list them under 'training' in a dataset.json"
_PREPARE = "; prepare them with --images DIR --labels DIR --modality CT"


def _nnunet(place: Path, found: str) -> DataError:
    return DataError(
        f"{place}: one file per channel, as in nnU-Net ({found}), which is read with a dataset.json of nnU-Net v2 alone: "
        "'channel_names', 'labels', 'numTraining', 'file_ending'. Add it: 'From nnU-Net' in docs/data.md"
    )


def lenient_tree(where: Path) -> dict[str, Any] | None:
    """Return the content of a dataset.json; None if it is damaged or absent."""
    try:
        tree = read_json(where)
    except (Unreadable, OSError):
        return None
    return tree if isinstance(tree, dict) else None


def _lists_scans(tree: Mapping[str, Any]) -> bool:
    return tree.get("training") is not None or (tree.get("test") is not None and "file_ending" not in tree)


def _refuse_listed(root: Path, entries: Any) -> None:
    label_of: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else ():
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(image, str) or "\0" in image:
            continue
        path = root / image
        first = (
            path.with_name(f"{without_suffix(path.name)}_0000{path.name[len(without_suffix(path.name)) :]}")
            if path.name
            else path
        )
        with suppress(OSError):  # a name that is too long, for example, is reported with its case
            if path.name and not path.exists() and first.is_file():
                raise _nnunet(root, f"dataset.json lists {image}, the file is {first.name}")
        if isinstance(label, str) and (case := case_of_channel(path.name)):
            if label_of.setdefault(label, image) != image and case_of_channel(Path(label_of[label]).name) == case:
                raise _nnunet(root, f"dataset.json lists {label_of[label]} and {image} with one label map, {label}")


def _channels(names: Iterable[str]) -> dict[str, list[int]]:
    """Return the channel numbers by case if every name is that of a channel file, and most cases have all from 0; else nothing.

    A case may lack a channel if at least as many others have two or more, and all of them.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        match = _CHANNEL_FILE.fullmatch(name)
        if not match:
            return {}
        found.setdefault(match["case"], []).append(int(match["channel"]))
    complete = [case for case, numbers in found.items() if sorted(numbers) == list(range(len(numbers)))]
    if len(complete) == len(found):
        return found
    most = max(map(len, found.values()))
    whole = [case for case in complete if len(found[case]) == most > 1]
    fits = all(number < most for numbers in found.values() for number in numbers)
    return found if fits and 2 * len(whole) >= len(found) else {}


def _described(channels: Mapping[str, Sequence[int]]) -> str:
    most = max(map(len, channels.values()))
    names = ", ".join(f"CASE_{c:04d}" for c in range(min(most, 3))) + (", ..." if most > 3 else "")
    return f"{sum(map(len, channels.values()))} file(s) of {len(channels)} case(s), named {names}"


def _share_a_grid(files: Sequence[Path]) -> bool:
    """Return whether the headers of all files that can be read give one grid."""
    grids = []
    for file in files if len(files) > 1 else ():
        try:
            grids.append(read_geometry(file))
        except DataError:  # reported when the scan is read
            continue
    return all(shape == grids[0][0] and np.allclose(affine, grids[0][1], atol=1e-3) for shape, affine in grids)


def _sounds_like_labels(name: str) -> bool:
    return bool(re.match(r"(label|seg|mask|annot|gt|truth|target)", name.lower()))


def _flat_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (scan, label map) by name where the label map's name is that of the scan and a word such as ``_seg``."""
    by_stem = {without_suffix(name): name for name in names}
    pairs = []
    for stem, name in by_stem.items():
        match = re.fullmatch(r"(.+)[._-](seg|segmentation|label|labels|mask|gt|truth)", stem, re.IGNORECASE)
        for scan in (match[1], f"{match[1]}_img", f"{match[1]}_image", f"{match[1]}_ct", f"{match[1]}_0000") if match else ():
            if scan in by_stem:
                pairs.append((by_stem[scan], name))
                break
    return pairs


def _listed(keys: Sequence[str]) -> str:
    return " and ".join(f"'{key}'" for key in keys[:2])


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
