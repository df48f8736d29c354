"""The files of ``predict``: its scans, and the label map of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..data.case_names import Scheme, scheme_for, without_suffix
from ..data.dataset import channel_names, listed_scans
from ..data.dicom import is_dicom_folder
from ..data.layouts import case_of_channel, channel_groups, lenient_tree, refuse_nnunet, volume_files
from ..data.nnunet import is_nnunet
from ..errors import DataError


@dataclass(frozen=True)
class ScanFiles:
    """One scan: its file, or its files, one a channel. ``place`` names its label map: a path without the number of a channel."""

    files: tuple[Path, ...]
    place: Path

    @property
    def path(self) -> Path:
        """The first file, which stands for the scan in messages, and whose geometry label maps have."""
        return self.files[0]


def scans_in(scans: Sequence[Path | str]) -> list[ScanFiles]:
    """Return the scans of given files and folders: files in given folders, and imagesTs (else imagesTr, else the list) of data sets.

    Files in the layout of nnU-Net, ``CASE_0000.nii.gz``, are the channels of a scan; a given first channel brings the others with
    it. A file that is given twice counts once. Raises DataError if there is none.
    """
    found: dict[str, ScanFiles] = {}
    alone: list[Path] = []
    for entry in map(Path, scans):
        if entry.is_dir():
            own = _inside(entry)
        elif entry.exists():
            alone.append(entry)
            continue
        else:
            raise DataError(f"{entry}: no such scan or folder")
        found |= {os.path.abspath(scan.path): scan for scan in own if os.path.abspath(scan.path) not in found}
    for scan in _given(alone):
        found.setdefault(os.path.abspath(scan.path), scan)
    return list(found.values())


def find_scans(scans: Sequence[Path | str]) -> list[Path]:
    """Return the first file of each scan of ``scans_in``."""
    return [scan.path for scan in scans_in(scans)]


def label_maps(scans: Sequence[ScanFiles], out: Path) -> dict[ScanFiles, Path]:
    """Return the label map of each scan: ``out`` itself if that is the name of a NIfTI file, else a file in the folder ``out``.

    It has the name of the scan; if scans have the same file name, that of the scan's folder (``a/ct.nii.gz``: ``a.nii.gz``).
    """
    if out.name.endswith((".nii", ".nii.gz")) and not out.is_dir():
        if len(scans) != 1:
            raise DataError(f"--out {out} names one label map, found {len(scans)} scans. Give a folder instead.")
        return {scans[0]: out}
    whole = {scan: Path(os.path.abspath(scan.place)) for scan in scans}
    scheme = scheme_for(whole.values())
    targets = {}
    for scan in scans:
        name = without_suffix(scan.place.name) if scheme == Scheme() else scheme.name(whole[scan])
        targets[scan] = out / f"{name}.nii.gz"
    by_target: dict[Path, ScanFiles] = {}
    for scan, target in targets.items():
        if (other := by_target.setdefault(target, scan)) != scan:
            raise DataError(
                f"{other.path} and {scan.path}: two scans have the same file name; predict them into different folders"
            )
    return targets


def names_in(entry: Path | str) -> tuple[str, ...]:
    """Return the channel names that the dataset.json of a folder gives; none for a file, or without a usable one."""
    where = Path(entry) / "dataset.json"
    tree = lenient_tree(where) if Path(entry).is_dir() else None
    try:
        return channel_names(where, tree) if tree else ()
    except DataError:
        return ()


def _inside(folder: Path) -> list[ScanFiles]:
    """Return the scans of a folder: the folder itself if it is a DICOM series."""
    if is_dicom_folder(folder):
        return [ScanFiles((folder,), folder)]
    places, tree = [folder], None
    if (folder / "dataset.json").exists():
        places, tree = [folder / "imagesTs", folder / "imagesTr"], lenient_tree(folder / "dataset.json")
        if tree is not None and not is_nnunet(tree):
            refuse_nnunet(folder, tree)
    inside = next((files for place in places if (files := volume_files(place))), [])
    if tree is None or is_nnunet(tree):
        found = _grouped(inside)
    else:
        found = [ScanFiles((path,), path) for path in inside or listed_scans(folder, tree)]
    if not found:
        raise DataError(
            f"{folder}: no scan found (.nii.gz, .nii, .nrrd, .mha, or a folder of DICOM in it); other subfolders are not searched"
        )
    return found


def _grouped(files: Sequence[Path], single: bool = True) -> list[ScanFiles]:
    """Return the scans of ``files``: cases of channel files, else each file by itself."""
    groups = channel_groups(files, single)
    return [ScanFiles(own, _without_channel(own[0])) for own in groups.values()] or [ScanFiles((file,), file) for file in files]


def _given(files: Sequence[Path]) -> list[ScanFiles]:
    """Return the scans of given files; a first channel brings the other channels of its case with it.

    Raises DataError for a later channel without the first one.
    """
    if not files:
        return []
    first = _grouped(files, single=False)
    if len(first) < len(files):
        return first
    found = []
    for scan in first:
        beside = _grouped(volume_files(scan.path.parent), single=False) if case_of_channel(scan.path.name) else []
        match = next((other for other in beside if scan.path in other.files and other.place != scan.path), scan)
        if match.path != scan.path:
            raise DataError(f"{scan.path}: this is a channel of a scan whose first file is {match.path.name}; give that one")
        found.append(match)
    return found


def _without_channel(path: Path) -> Path:
    case = case_of_channel(path.name)
    return path.with_name(case + path.name[len(case) + 5 :])


def scan_name(place: PurePath) -> str:
    """Return the file name of a scan without its suffix."""
    return without_suffix(place.name)
