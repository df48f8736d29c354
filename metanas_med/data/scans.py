"""Folders of unlabelled scans: a data set whose images alone are read, or a plain folder of NIfTI files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import DataError
from .bids import is_bids
from .bids import listed as bids_tree
from .cards import Card
from .case_names import Scheme, case_name, scheme_for
from .dataset import (
    BadCase,
    Case,
    Dataset,
    as_text,
    card_of,
    channel_names,
    first_image,
    is_hidden,
    listed_paths,
    listed_under,
    modality_of,
    named_by,
    names_patients,
    paths_inside,
    patient_of_case,
    problems_of,
    read_dataset_json,
    refuse_second,
)
from .layouts import channel_groups, volume_files
from .options import STRICT, ReadOptions
from .volumes import no_volume, read_geometry

log = logging.getLogger(__name__)

#: folders of label maps, which a plain folder of scans must not contain
_LABEL_FOLDERS = ("labelsTr", "labelsTs", "labels")
#: an image with at most this many different values, all whole numbers in 0..255, counts as a label map
_MOST_LABELS = 32


def survey_scans(root: Path | str, modality: str | None = None, options: ReadOptions = STRICT) -> tuple[Dataset, list[BadCase]]:
    """Return a folder's scans as a data set without labels, and the problems of unusable scans; only headers are read.

    With a ``dataset.json``, the scans are the images under 'training' and 'test'; labels are ignored. Without it, they are
    all readable files and folders of DICOM in the folder, its ``imagesTr`` and its ``imagesTs``. A ``card.yaml`` may give
    modality and patients. ``modality`` (CT, MR, PET, US) overrides both files for all channels. The number of channels is
    that of the declared modality, else that of most scans. Raises DataError if there is no scan, or if a plain folder
    contains a folder of labels.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        found = "this is a file" if root.is_file() else "no such folder"
        raise DataError(f"{root}: {found}; expected a folder of scans (*.nii.gz), or one in MSD layout")
    card = card_of(root)
    problems: list[BadCase] = []
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    listed: list[Any] = []
    if os.path.lexists(root / "dataset.json") or is_bids(root):
        described = os.path.lexists(root / "dataset.json")
        tree = read_dataset_json(root) if described else bids_tree(root, labelled=False)
        problems += problems_of(root, tree)
        where = root / "dataset.json"
        listed = [entry for key in ("training", "test") for entry in listed_under(where, tree, key, needed=False)]
        kinds = () if modality else modality_of(where, tree, card)
        names = channel_names(where, tree) if not modality or {"modality", "channel_names"} & set(tree) else ()
        cases = list(_listed_scans(root, tree, card, problems, options))
    else:
        tree, cases = {}, list(_found_scans(root, card, problems))
    if not cases and not problems:
        raise DataError(
            f"{root}: found no scan; expected *.nii.gz, *.nrrd, *.mha or folders of DICOM in it, or a dataset.json that lists images"
        )
    cases, kinds = _of_one_kind(
        root, cases, kinds, (modality,) if modality else card.modality if card else ("unknown",), problems
    )
    dataset = Dataset(
        name=root.name,
        root=root,
        modality=kinds,
        labels={},
        cases=tuple(cases),
        unlabelled=(),
        group=card.group if card else root.name,
        patients_known=bool(card and card.patient is not None) or names_patients(listed),
        related=card.related if card else (),
        licence=as_text(tree.get("licence", tree.get("license", ""))),
        description=as_text(tree.get("description", "")),
        given_labels={},
        channel_names=names if len(names) == len(kinds) else (),
    )
    return dataset, problems


def _listed_scans(
    root: Path, tree: dict[str, Any], card: Card | None, problems: list[BadCase], options: ReadOptions
) -> Iterator[Case]:
    where, num_labels = root / "dataset.json", 0
    seen: dict[str, PurePosixPath] = {}
    lists = {key: listed_under(where, tree, key, needed=False) for key in ("training", "test")}
    scheme = scheme_for(listed_paths(lists["training"]))  # names as those of the labelled data set
    taken = [scheme.name(path) for path in listed_paths(lists["training"])]
    repeated = set(listed_paths(lists["training"]))
    schemes: dict[str, Scheme] = {
        "training": scheme,
        "test": scheme_for([path for path in listed_paths(lists["test"]) if path not in repeated], scheme, taken),
    }
    for key, entries in lists.items():
        for number, entry in enumerate(entries):
            value = entry.get("image") if isinstance(entry, dict) else entry
            if is_hidden(first_image(value)):
                continue
            place = named_by(value)
            name = (schemes[key].name(place) if place is not None else "") or f"{key}[{number}]"
            num_labels += isinstance(entry, dict) and "label" in entry
            try:
                images = paths_inside(root, value, options)
                if bad := {path: reason for path in images if (reason := no_volume(path))}:
                    if key == "test":  # many copies of MSD lack imagesTs
                        continue
                    path, reason = next(iter(bad.items()))
                    raise DataError(f"{path}: {reason}; restore it or remove the case from dataset.json")
                refuse_second(seen, name, place)
                yield Case(name, images[0], None, patient_of_case(name, card, entry), more=images[1:])
            except DataError as error:
                problems.append(BadCase(root.name, name, str(error)))
    if num_labels:
        log.warning("%s: dataset.json lists labels of %d scans; they are not read", root.name, num_labels)


def _found_scans(root: Path, card: Card | None, problems: list[BadCase]) -> Iterator[Case]:
    labels = next((root / name for name in _LABEL_FOLDERS if (root / name).is_dir()), None)
    if labels is not None:
        raise DataError(
            f"{labels}: found labels in a folder without dataset.json, expected only scans. "
            "Choose a folder that holds only scans."
        )
    folders = [root, root / "imagesTr", root / "imagesTs"]
    files = sorted(file for folder in folders for file in volume_files(folder))
    seen: set[str] = set()
    for name, images in channel_groups(files).items() or ((case_name(file.name), (file,)) for file in files):
        try:
            if name in seen:
                raise DataError(f"{images[0]}: two files of this name; case names must differ")
            seen.add(name)
            yield Case(name, images[0], None, patient_of_case(name, card), more=images[1:])
        except DataError as error:
            problems.append(BadCase(root.name, name, str(error)))


def _of_one_kind(
    root: Path, cases: Sequence[Case], declared: tuple[str, ...], given: tuple[str, ...], problems: list[BadCase]
) -> tuple[list[Case], tuple[str, ...]]:
    """Return the cases with a usable header and the right number of channels, and one kind per channel.

    Without ``declared`` kinds the number is that of most scans, and the kinds are ``given``: one for all, or one per channel.
    ``unknown`` kinds are treated like MR.
    """
    found: list[tuple[Case, int]] = []
    for case in cases:
        try:
            shape, _ = read_geometry(case.images)
            found.append((case, shape[3] if len(shape) > 3 else 1))
        except DataError as error:
            problems.append(BadCase(root.name, case.name, str(error)))
    numbers = Counter(number for _, number in found)
    usual = len(declared) or max(numbers, key=lambda n: (numbers[n], -n), default=len(given))
    if not declared and len(given) not in (1, usual):
        raise DataError(f"{root}: {usual} channels, but its card gives {len(given)} modalities; fix the card")
    expected = "dataset.json's modality has" if declared else "most have"
    problems += [
        BadCase(root.name, case.name, f"{case.image}: found {number} channel(s), {expected} {usual}")
        for case, number in found
        if number != usual
    ]
    return [case for case, number in found if number == usual], declared or given * (usual // len(given))


def refuse_label_map(path: Path, image: np.ndarray, advice: str = "Remove it from the folder of scans.") -> None:
    """Raise DataError if an image (C, X, Y, Z) looks like a label map: few different values, all whole numbers in 0..255."""
    values = image.reshape(-1)
    some = np.unique(values[:: max(1, len(values) // 100_000)])
    if len(some) > _MOST_LABELS or some[0] < 0 or some[-1] > 255 or (some != np.rint(some)).any():
        return
    every = np.unique(values)
    if 1 < len(every) <= _MOST_LABELS and every[0] == 0 and every[-1] <= 255 and (every == np.rint(every)).all():
        raise DataError(
            f"{path}: looks like a label map ({len(every)} different values, whole numbers up to {every[-1]:g}), "
            f"expected a scan. {advice}"
        )
