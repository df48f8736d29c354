"""BIDS folders, read by the names of their files: scans under ``sub-*``, label maps under ``derivatives``.

A label map belongs to the scan of the same subject, session, acquisition and run. ``*_dseg`` holds all organs, named by its
``dseg.tsv``; ``*_mask`` holds one organ, named by its entity ``label`` or ``desc``. Patients are the subjects.
"""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .case_names import SUFFIXES, without_suffix

log = logging.getLogger(__name__)

#: suffixes of scans, and their kinds; the first that is there is read
_KINDS = {name: "MR" for name in ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "T2star", "inplaneT2", "UNIT1", "angio")}
_KINDS |= {"ct": "CT", "pet": "PET", "us": "US"}
_PLACES = ("anat", "ct", "pet", "us")
_SAME = ("sub", "ses", "acq", "run")
#: spaces of label maps that are those of the scan itself
_OWN_SPACES = {"orig", "individual", "native", "scanner", "T1w", "T2w", "FLAIR", "anat"}


@dataclass(frozen=True)
class Named:
    """A file of BIDS: its entities, such as ``sub`` and ``run``, and its suffix, such as ``T1w``."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(self.entities.get(name, "") for name in _SAME)


def is_bids(root: Path) -> bool:
    """Return whether a folder is a data set of BIDS: subjects, and the file that describes it or its participants."""
    described = any((root / name).is_file() for name in ("dataset_description.json", "participants.tsv"))
    return described and any(path.is_dir() for path in root.glob("sub-*"))


def listed(root: Path, labelled: bool = True) -> dict[str, Any]:
    """Return the content of a dataset.json for a folder of BIDS, with a patient an entry; all are ``test`` scans unless ``labelled``.

    A label map without a scan has an entry whose image does not exist; a scan without a label map is one of the ``test`` scans.
    ``problems`` holds (case, problem) of files that cannot be used: two scans or label maps of one run, a file of another subject's
    name, a subject that participants.tsv does not name.
    """
    scans, suffix = _scans(root)
    labels, organs = _labels(root) if labelled else ([], {})
    problems = _strangers(root, scans)
    problems |= _twins([scan for scan in scans if scan.path not in problems], "scan") | _twins(labels, "label map")
    barred = {path.name.split("_")[0] for path in problems if path in {scan.path for scan in scans}}
    scans = [scan for scan in scans if scan.path not in problems]
    labels = [label for label in labels if label.path not in problems and f"sub-{label.key[0]}" not in barred]
    by_key = {scan.key: scan for scan in scans}
    by_visit: dict[tuple[str, ...], list[Named]] = {}
    for scan in scans:
        by_visit.setdefault(scan.key[:2], []).append(scan)
    training, used = [], set()
    for key in dict.fromkeys(label.key for label in labels):
        own = {_organ(label, organs): _relative(root, label.path) for label in labels if label.key == key}
        near = by_visit.get(key[:2], [])
        scan = by_key.get(key) or (near[0] if len(near) == 1 and not any(key[2:]) else None)
        image = _relative(root, scan.path) if scan else _absent(key, suffix)
        used.add(scan.path if scan else None)
        training.append({"image": image, **_label(own, organs), "patient": f"sub-{key[0]}"})
    return {
        "modality": {"0": suffix if _KINDS[suffix] == "MR" else _KINDS[suffix]},
        "labels": {"0": "background"} | {str(value): name for value, name in organs.items()},
        "training": training,
        "test": [
            {"image": _relative(root, scan.path), "patient": f"sub-{scan.key[0]}"} for scan in scans if scan.path not in used
        ],
        "problems": tuple((without_suffix(path.name), problem) for path, problem in problems.items()),
    }


def _label(own: Mapping[str, str], organs: Mapping[int, str]) -> dict[str, Any]:
    """Return the keys of an entry for its label maps: a dseg by itself, or masks by label value."""
    if "" in own:
        return {"label": own[""]}
    masks = {str(value): own[name] for value, name in organs.items() if name in own}
    return {"label": next(iter(masks.values())), "masks": masks} | (
        {} if len(masks) == len(organs) else {"annotated": [name for name in organs.values() if name in own]}
    )


def _scans(root: Path) -> tuple[list[Named], str]:
    """Return the scans of one suffix, and that suffix."""
    found = [
        named
        for subject in sorted(root.glob("sub-*"))
        for place in _PLACES
        for pattern in (f"{place}/*", f"ses-*/{place}/*")
        for path in sorted(subject.glob(pattern))
        if path.name.endswith(SUFFIXES) and (named := _named(path)).suffix in _KINDS
    ]
    if not found:
        raise DataError(
            f"{root}: found no scan; expected sub-*/[ses-*/]anat/*_T1w.nii.gz, or another suffix of {', '.join(_KINDS)}"
        )
    numbers = Counter(scan.suffix for scan in found)
    suffix = next(name for name in _KINDS if name in numbers)
    if others := {name: number for name, number in numbers.items() if name != suffix}:
        told = ", ".join(f"{number} {name}" for name, number in others.items())
        log.warning("%s: the %d %s scans are read; %s are not", root.name, numbers[suffix], suffix, told)
    return [scan for scan in found if scan.suffix == suffix], suffix


def _labels(root: Path) -> tuple[list[Named], dict[int, str]]:
    """Return the label maps, all of them dseg or all masks, and the organs by label value."""
    every = [_named(path) for path in sorted((root / "derivatives").rglob("sub-*")) if path.name.endswith(SUFFIXES)]
    found = [named for named in every if named.suffix in ("dseg", "mask")]
    elsewhere = [named for named in found if named.entities.get("space", "orig") not in _OWN_SPACES]
    found = [named for named in found if named not in elsewhere]
    if elsewhere:
        log.warning(
            "%s: %d label map(s) in another space are not read, such as %s", root.name, len(elsewhere), elsewhere[0].path.name
        )
    if not found:
        raise DataError(f"{root}: found no label map; expected derivatives/*/sub-*/.../*_dseg.nii.gz, or *_desc-NAME_mask.nii.gz")
    maps = [named for named in found if named.suffix == "dseg"]
    if maps:
        if len(maps) < len(found):
            log.warning("%s: the %d dseg label maps are read; %d masks are not", root.name, len(maps), len(found) - len(maps))
        return maps, _table(root, maps)
    names = sorted({_mask_name(mask) for mask in found})
    return found, dict(enumerate(names, start=1))


def _table(root: Path, maps: Sequence[Named]) -> dict[int, str]:
    """Return the organs by label value of the ``dseg.tsv`` of all label maps."""
    organs: dict[int, str] = {}
    for file in dict.fromkeys(_sidecar(root, label) for label in maps):
        for row in _rows(file):
            try:
                value, name = int(row["index"]), row["name"].strip()
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{file}: found a row {dict(row)}, expected whole numbers under 'index' and texts under 'name'"
                ) from error
            if value and organs.setdefault(value, name) != name:
                raise DataError(
                    f"{file}: value {value} is {name!r}, elsewhere {organs[value]!r}; expected one name for each value"
                )
    return dict(sorted(organs.items()))


def _sidecar(root: Path, label: Named) -> Path:
    """Return the table of a label map: beside it, or further up where it holds for all label maps below (BIDS inheritance)."""
    for folder in label.path.parents:
        for path in sorted(folder.glob("*dseg.tsv")):
            if _named(path).entities.items() <= label.entities.items():
                return path
        if folder == root:
            break
    raise DataError(
        f"{label.path}: no table names its values; expected {without_suffix(label.path.name)}.tsv beside it, or a dseg.tsv further up, "
        "with the columns index and name"
    )


def _strangers(root: Path, scans: Sequence[Named]) -> dict[Path, str]:
    """Return the problems of subjects: files of another subject's name, and subjects that participants.tsv does not name."""
    folders = {scan.path: scan.path.relative_to(root).parts[0] for scan in scans}
    problems = {
        path: f"{path}: lies in the folder of {folder} and has the name of another subject; move or rename it"
        for path, folder in folders.items()
        if not path.name.startswith(f"{folder}_")
    }
    where = root / "participants.tsv"
    if not where.is_file():
        return problems
    known = {row.get("participant_id") for row in _rows(where)}
    if known <= {None}:
        raise DataError(f"{where}: no column participant_id; expected one with sub-... a row")
    unknown = {path: folder for path, folder in folders.items() if folder not in known}
    return problems | {
        path: f"{where}: does not name {folder}; add a row, or remove its scans" for path, folder in unknown.items()
    }


def _twins(files: Sequence[Named], what: str) -> dict[Path, str]:
    """Return the problems of files that tell nothing apart: two scans, or two label maps of an organ, of one run."""
    seen: dict[tuple[str, ...], Named] = {}
    problems: dict[Path, str] = {}
    for file in files:
        key = (*file.key, _mask_name(file) if file.suffix == "mask" else "")
        if (other := seen.setdefault(key, file)) is not file:
            told = f"{other.path} and {file.path} are each a {what} of one run; keep one of them"
            problems |= {other.path: told, file.path: told}
    return problems


def _rows(where: Path) -> list[dict[str, Any]]:
    try:
        with open(where, encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{where}: cannot be read as a table with tabs ({error})") from error


def _named(path: Path) -> Named:
    *parts, suffix = without_suffix(path.name.removesuffix(".tsv")).split("_")
    pairs = (part.split("-", 1) for part in parts)
    return Named(path, {pair[0]: pair[1] for pair in pairs if len(pair) == 2}, suffix)


def _mask_name(mask: Named) -> str:
    return mask.entities.get("label") or mask.entities.get("desc") or "mask"


def _organ(label: Named, organs: Mapping[int, str]) -> str:
    return _mask_name(label) if label.suffix == "mask" else ""


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _absent(key: Sequence[str], suffix: str) -> str:
    """Return where the scan of a label map is expected."""
    name = "_".join(f"{entity}-{value}" for entity, value in zip(_SAME, key, strict=True) if value)
    session = f"ses-{key[1]}/" if key[1] else ""
    return f"sub-{key[0]}/{session}anat/{re.sub(r'[^A-Za-z0-9_-]', '', name)}_{suffix}.nii.gz"
