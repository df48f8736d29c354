"""Folders of nnU-Net v2 as they are: cases found by file names, one file a channel (nnU-Net's dataset format, version 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..parse import Unreadable, brief, read_json
from .case_names import SUFFIXES

#: keys of a dataset.json of nnU-Net that MSD does not have
KEYS = ("channel_names", "file_ending", "regions_class_order", "overwrite_image_reader_writer")


def keys_of_nnunet(tree: Mapping[str, Any]) -> list[str]:
    """Return the keys that tell a dataset.json of nnU-Net v2 from one of MSD."""
    found = [key for key in KEYS if key in tree]
    return found if found != ["channel_names"] or "numTraining" in tree else []


def is_nnunet(tree: Mapping[str, Any]) -> bool:
    """Return whether a dataset.json is one of nnU-Net v2: it has its keys, and no list of cases."""
    listed_test = tree.get("test") is not None and "file_ending" not in tree
    return tree.get("training") is None and not listed_test and bool(keys_of_nnunet(tree)) and "channel_names" in tree


def listed(root: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dataset.json of nnU-Net with the lists ``training`` and ``test``; an image is a list of files, one a channel.

    Every case has an entry, also one that lacks a file: reading it names what is absent. Raises DataError if the folder has no
    scan, for an ending that is not a text, and for regions without their order.
    """
    where = root / "dataset.json"
    ending = tree.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not re.fullmatch(r"\.[A-Za-z0-9.]+", ending):
        raise DataError(f"{where}: 'file_ending' is {brief(ending)}, expected a text such as '.nii.gz'")
    if ending not in SUFFIXES:
        raise DataError(
            f"{where}: files that end with {ending} ('file_ending') are not read; expected one of {', '.join(SUFFIXES)}"
        )
    names = tree["channel_names"]
    num_channels = len(names) if isinstance(names, dict) else 0
    _check_order(where, tree)
    training = _cases(root, "imagesTr", ending, num_channels)
    labels = _labels(root, ending)
    if not training and not labels:
        raise DataError(
            f"{root}: found no training case; expected imagesTr/CASE_0000{ending}, a file a channel, and labelsTr/CASE{ending} "
            "('file_ending' of dataset.json)"
        )
    entries = []
    for case in sorted({*training, *labels}):
        files = training.get(case) or _expected("imagesTr", case, ending, num_channels)
        entries.append({"image": files, "label": f"./labelsTr/{case}{ending}"})
    test = [{"image": files} for _, files in sorted(_cases(root, "imagesTs", ending, num_channels).items())]
    return {**tree, "training": entries, "test": test}


def read_splits(root: Path, cases: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], ...]:
    """Return the folds of ``splits_final.json``, in the folder or in its preprocessed twin; none without the file.

    Raises DataError for a file that is no list of folds, and if a fold names a case that the folder does not have.
    """
    where = root / "splits_final.json"
    if not where.is_file():
        return ()
    try:
        found = read_json(where)
    except (Unreadable, OSError) as error:
        raise DataError(f"{where}: malformed, {error}") from error
    folds = []
    for number, fold in enumerate(found if isinstance(found, list) else [found]):
        if not (isinstance(fold, dict) and all(_are_texts(fold.get(part)) for part in ("train", "val"))):
            raise DataError(f"{where}: fold {number} is {brief(fold)}, expected {{'train': [names], 'val': [names]}}")
        train, val = tuple(fold["train"]), tuple(fold["val"])
        if unknown := sorted({*train, *val} - set(cases)):
            raise DataError(f"{where}: fold {number} names {unknown[0]!r}, which is no case of the folder; correct the file")
        if both := sorted(set(train) & set(val)):
            raise DataError(f"{where}: fold {number} names {both[0]!r} under 'train' and 'val'; correct the file")
        folds.append({"train": train, "val": val})
    return tuple(folds)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _check_order(where: Path, tree: Mapping[str, Any]) -> None:
    """Raise DataError if there are regions and no usable order: without it, nnU-Net does not know what it would write."""
    labels = tree.get("labels")
    regions = [key for key, value in labels.items() if isinstance(value, list)] if isinstance(labels, dict) else []
    order = tree.get("regions_class_order")
    if regions and not (isinstance(order, list) and all(isinstance(value, int) for value in order)):
        raise DataError(
            f"{where}: 'labels' has regions ({regions[0]!r}), and 'regions_class_order' is {brief(order)}; "
            "expected the label value that each region is written with, such as [1, 2, 3]"
        )


def _cases(root: Path, folder: str, ending: str, num_channels: int) -> dict[str, list[str]]:
    """Return the files of each case of a folder, one a channel; a file that is absent stands in its place."""
    pattern = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}")
    found: dict[str, list[int]] = {}
    for path in sorted((root / folder).iterdir()) if (root / folder).is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match and not path.name.startswith("."):
            found.setdefault(match["case"], []).append(int(match["channel"]))
    return {
        case: _expected(folder, case, ending, max(num_channels, max(channels) + 1)) for case, channels in sorted(found.items())
    }


def _expected(folder: str, case: str, ending: str, num_channels: int) -> list[str]:
    return [f"./{folder}/{case}_{channel:04d}{ending}" for channel in range(max(num_channels, 1))]


def _labels(root: Path, ending: str) -> list[str]:
    folder = root / "labelsTr"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path.name[: -len(ending)] for path in files if path.name.endswith(ending) and not path.name.startswith(".")]
