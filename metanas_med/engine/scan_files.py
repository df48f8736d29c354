"""The files of ``predict``: its scans, and the label map of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..data.case_names import Scheme, scheme_for
from ..data.dataset import channel_names, listed_scans
from ..data.layouts import SUFFIXES, lenient_tree, nifti_files, refuse_channel_files, refuse_nnunet
from ..errors import DataError


def find_scans(scans: Sequence[Path | str]) -> list[Path]:
    """Return NIfTI files: given files, files in given folders, and imagesTs (else imagesTr, else the list) of data set folders.

    A file that is given twice counts once. Raises DataError for folders in the layout of nnU-Net, whose files are channels.
    """
    found: list[Path] = []
    alone: list[Path] = []
    for entry in map(Path, scans):
        if entry.is_dir():
            found += _inside(entry)
        elif entry.exists():
            alone.append(entry)
            found.append(entry)
        else:
            raise DataError(f"{entry}: no such scan or folder")
    _refuse_channels(alone)
    return list({os.path.abspath(path): path for path in reversed(found)}.values())[::-1]


def label_maps(scans: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Return the label map of each scan: ``out`` itself if that is the name of a NIfTI file, else a file in the folder ``out``.

    It has the name of the scan; if scans have the same file name, that of the scan's folder (``a/ct.nii.gz``: ``a.nii.gz``).
    """
    if out.name.endswith(SUFFIXES) and not out.is_dir():
        if len(scans) != 1:
            raise DataError(f"--out {out} names one label map, found {len(scans)} scans. Give a folder instead.")
        return {scans[0]: out}
    whole = {path: Path(os.path.abspath(path)) for path in scans}
    scheme = scheme_for(whole.values())
    targets = {}
    for path in scans:
        name = path.name if scheme == Scheme() else f"{scheme.name(whole[path])}.nii.gz"
        targets[path] = out / (name if name.endswith(".gz") else name + ".gz")
    by_target: dict[Path, Path] = {}
    for path, target in targets.items():
        if by_target.setdefault(target, path) != path:
            raise DataError(
                f"{by_target[target]} and {path}: two scans have the same file name; predict them into different folders"
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


def _inside(folder: Path) -> list[Path]:
    """Return the scans of a folder."""
    places, tree = [folder], None
    if (folder / "dataset.json").exists():
        places, tree = [folder / "imagesTs", folder / "imagesTr"], lenient_tree(folder / "dataset.json")
        if tree is not None:
            refuse_nnunet(folder, tree)
    inside = next((files for place in places if (files := nifti_files(place))), [])
    if tree is None:
        refuse_channel_files(folder, inside)
    elif not inside:
        inside = listed_scans(folder, tree)
    if not inside:
        raise DataError(
            f"{folder}: no NIfTI file (.nii, .nii.gz) found; subfolders are not searched, and DICOM must be converted first "
            "(dcm2niix)"
        )
    return inside


def _refuse_channels(files: Sequence[Path]) -> None:
    """Raise DataError if given files are channel files: by their own names, or by those of their folders."""
    if not files:
        return
    refuse_channel_files(files[0].parent, files, single=False)
    for folder in {file.parent for file in files}:
        refuse_channel_files(folder, nifti_files(folder), single=False)
