"""Plain pairs: a folder of scans and a folder of label maps, paired by file name, as the dataset.json that they lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .case_names import without_suffix
from .layouts import channel_groups, volume_files
from .volumes import read_label

#: what a label map's name may have after that of its scan, and a scan's name after that of the case
_OF_LABEL = re.compile(r"[._-](seg|segmentation|label|labels|labelmap|mask|gt|truth)$", re.IGNORECASE)
_OF_SCAN = re.compile(r"[._-](img|image|scan|ct|mr|mri|pet|us)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pairs:
    """Where scans and label maps are, and what no file says: ``modality`` by channel, and ``organs`` by label value.

    Without ``organs``, each value that a label map holds is an organ named ``label N``.
    """

    name: str
    images: Path
    labels: Path
    modality: tuple[str, ...]
    organs: tuple[tuple[int, str], ...] = ()


def tree_of(pairs: Pairs) -> dict[str, Any]:
    """Return the content of a dataset.json for the pairs; paths are absolute.

    A label map belongs to the scan of the same name, or of its name without an ending such as ``_seg``. A label map without a
    scan has an entry whose image does not exist; a scan without a label map is one of the ``test`` scans. ``problems`` holds
    (case, problem) of files of one name. Raises DataError if no pair is found.
    """
    problems: list[tuple[str, str]] = []
    if not re.fullmatch(r"[^/\\\x00-\x1f]+", pairs.name) or pairs.name.startswith("."):
        raise DataError(f"--name {pairs.name!r}: expected the name of a file, such as mine")
    for folder in (pairs.images, pairs.labels):
        if not folder.is_dir():
            raise DataError(f"{folder}: {'this is a file' if folder.exists() else 'no such folder'}; expected a folder of scans")
    together = pairs.images.resolve() == pairs.labels.resolve()
    files = volume_files(pairs.images)
    scans = [file for file in files if not (together and _OF_LABEL.search(without_suffix(file.name)))]
    groups = channel_groups(scans)
    found = _by_name(groups or {without_suffix(file.name): (file,) for file in _alone(scans, problems)})
    labels = [file for file in volume_files(pairs.labels) if file not in scans]
    training, used = [], set()
    for name, label in _labels(labels, found, problems).items():
        images = found.get(name) or (pairs.images / f"{name}.nii.gz",)
        used.add(name)
        training.append({"image": _value(images, bool(groups)), "label": str(label.absolute())})
    if not used & set(found):
        raise DataError(
            f"{pairs.images} and {pairs.labels}: found {len(found)} scan(s) and {len(labels)} label map(s), and no two of one name. "
            "A label map needs the name of its scan, or that name with _seg, _label or _mask"
        )
    organs = dict(pairs.organs) or {value: f"label {value}" for value in _values(labels)}
    return {
        "modality": {str(channel): kind for channel, kind in enumerate(pairs.modality)},
        "labels": {"0": "background"} | {str(value): name for value, name in organs.items()},
        "training": training,
        "test": [{"image": _value(images, bool(groups))} for name, images in found.items() if name not in used],
        "problems": tuple(problems),
    }


def _alone(files: Sequence[Path], problems: list[tuple[str, str]]) -> list[Path]:
    """Return the files without those that have one name but for the suffix, which become ``problems``."""
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(without_suffix(file.name), []).append(file)
    for name, own in by_name.items():
        if len(own) > 1:
            told = " and ".join(file.name for file in own)
            problems.append((name, f"{own[0].parent}: found {told}, expected one file a case; keep one of them"))
    return [own[0] for own in by_name.values() if len(own) == 1]


def _by_name(scans: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    """Return the files of each scan by the name that its label map may have: without ``_ct``, where no two become one."""
    short = [_OF_SCAN.sub("", name) for name in scans]
    return dict(zip(short, scans.values(), strict=True)) if len(set(short)) == len(short) else scans


def _labels(files: Sequence[Path], scans: dict[str, tuple[Path, ...]], problems: list[tuple[str, str]]) -> dict[str, Path]:
    """Return label maps by the name of their scan, or by their own name if there is none; two of one scan become ``problems``."""
    found: dict[str, Path] = {}
    for file in _alone(files, problems):
        stem = without_suffix(file.name)
        forms = [stem, _OF_SCAN.sub("", stem), _OF_LABEL.sub("", stem), _OF_SCAN.sub("", _OF_LABEL.sub("", stem))]
        name = next((form for form in forms if form in scans), stem)
        if (other := found.setdefault(name, file)) is not file:
            problems.append((name, f"{file.parent}: {other.name} and {file.name} are label maps of one scan; keep one of them"))
    return {name: file for name, file in found.items() if name not in {case for case, _ in problems}}


def _value(files: Sequence[Path], by_channel: bool) -> str | list[str]:
    """Return the value of ``image`` in an entry: a list names the case without the number of a channel, also if there is one."""
    paths = [str(file.absolute()) for file in files]
    return paths if by_channel else paths[0]


def _values(labels: Sequence[Path]) -> list[int]:
    """Return the values of all label maps that can be read, without 0; the others are reported when their case is checked."""
    found: set[int] = set()
    for file in labels:
        try:
            found |= {int(value) for value in np.unique(read_label(file)[0])}
        except DataError:
            continue
    if not found - {0}:
        raise DataError(f"{labels[0].parent}: no label map holds a value above 0; expected organs as 1, 2, ...")
    return sorted(found - {0})
