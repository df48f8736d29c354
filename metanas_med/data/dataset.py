"""Reading a data set folder in Medical Segmentation Decathlon layout: its cases, each with image, label and patient."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from ..parse import Unreadable, brief, no_file, read_json
from .cards import Card, load_card, read_card
from .options import STRICT, ReadOptions

log = logging.getLogger(__name__)

#: Words in a dataset.json's modality that identify its kind; any other text is kept as written.
_KINDS = {
    "CT": ("ct", "cect", "ncct", "cbct"),
    "PET": ("pet", "suv"),
    "US": ("us", "trus", "ultrasound"),
    "MR": ("mr", "mri", "cmr", "t1", "t1w", "t1gd", "t1ce", "t2", "t2w", "flair", "adc", "dwi", "pd"),
}


_LONGEST_NAME, _LONGEST_PATH = 200, 1000  # characters


@dataclass(frozen=True)
class Case:
    """One scan: its name (the file name without suffix), its files and its patient."""

    name: str
    image: Path
    label: Path | None
    patient: str


@dataclass(frozen=True)
class Dataset:
    """A data set folder. Patient names are compared verbatim, also between data sets that are related or share a group."""

    name: str  #: the folder's name
    root: Path
    modality: tuple[str, ...]  #: one per channel: CT, MR, PET, US, or the text in dataset.json
    labels: dict[int, str]  #: organ names by label value, without background
    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...]  #: the test images
    group: str
    patients_known: bool  #: if False, each file counts as one patient
    related: tuple[str, ...]
    licence: str
    description: str
    given_labels: dict[int, str]  #: the names in dataset.json; a card may rename the organs


@dataclass(frozen=True)
class BadCase:
    """A problem with one case, or with the whole data set if ``case`` is empty."""

    dataset: str
    case: str
    problem: str


def read_dataset(root: Path | str, card: Card | None = None, options: ReadOptions = STRICT) -> Dataset:
    """Return the data set of a folder; raises DataError for the first problem in its dataset.json or file list."""
    dataset, problems = survey_dataset(root, card, options)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{dataset.name}: {problems[0].case}: {problems[0].problem}{more}")
    return dataset


def survey_dataset(root: Path | str, card: Card | None = None, options: ReadOptions = STRICT) -> tuple[Dataset, list[BadCase]]:
    """Return a folder's usable cases and the problems of the others; scans are not opened.

    The card is the given one, else the folder's own ``card.yaml``, else the shipped card of that name.
    Raises DataError if dataset.json itself is missing or malformed.
    """
    root = Path(os.path.abspath(root))  # abspath gives "." a name, and a link to a folder keeps its own name
    if card is None:
        card = card_of(root)
    tree = read_dataset_json(root)
    where = root / "dataset.json"
    problems: list[BadCase] = []
    cases = list(_cases(root, listed_under(where, tree, "training"), card, problems, options))
    unlabelled = list(_test_cases(root, listed_under(where, tree, "test", needed=False), card, problems, options))
    if not cases and not problems:
        raise DataError(f"{where}: found no training case; expected {{'image': ..., 'label': ...}} under 'training'")
    given = _labels(where, tree)
    dataset = Dataset(
        name=root.name,
        root=root,
        modality=modality_of(where, tree, card),
        labels=_renamed(where, given, card),
        cases=tuple(cases),
        unlabelled=tuple(unlabelled),
        group=card.group if card else root.name,
        patients_known=bool(card and card.patient is not None),
        related=card.related if card else (),
        licence=as_text(tree.get("licence", tree.get("license", ""))),
        description=as_text(tree.get("description", "")),
        given_labels=given,
    )
    return dataset, problems


def read_dataset_json(root: Path) -> dict[str, Any]:
    where = root / "dataset.json"
    if reason := no_file(where):
        raise DataError(f"{where}: {reason}; expected a folder in MSD layout (see 'Your own scans' in docs/data.md)")
    try:
        tree = read_json(where)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror})") from error
    except Unreadable as error:
        raise DataError(f"{where}: malformed, {error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{where}: malformed, found a {type(tree).__name__}, expected an object with 'training' and 'labels'")
    return tree


def listed_under(where: Path, tree: dict[str, Any], key: str, needed: bool = True) -> list[Any]:
    if needed and key not in tree:
        raise DataError(f"{where}: the key {key!r} is missing; expected a list of cases")
    listed = tree.get(key) or []
    if not isinstance(listed, list):
        raise DataError(f"{where}: {key!r} is a {type(listed).__name__}, expected a list of cases")
    return listed


def _labels(where: Path, tree: dict[str, Any]) -> dict[int, str]:
    """Return names by value from ``{"1": "spleen"}`` (MSD) or ``{"spleen": 1}`` (nnU-Net), without the background."""
    found = tree.get("labels")
    if not isinstance(found, dict) or not found:
        raise DataError(f"{where}: the key 'labels' is missing or not an object; expected {{'0': 'background', '1': name, ...}}")
    labels: dict[int, str] = {}
    for key, value in found.items():
        text, name = (key, value) if isinstance(value, str) else (value, key)
        try:
            number = int(text)
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{where}: found label {brief(key)}: {brief(value)}, expected a value and a name") from error
        # int() also reads "1_0" as 10, and digits of other scripts
        plain = re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) if isinstance(text, str) else number == text
        if isinstance(text, bool) or not plain:
            raise DataError(f"{where}: found label {brief(key)}: {brief(value)}, expected a whole number as value")
        if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise DataError(f"{where}: found {brief(name)} as the name of an organ, expected a word or a few")
        if number in labels or not 0 <= number <= 255:
            raise DataError(f"{where}: label value {brief(number)} appears twice or is not in 0..255")
        labels[number] = name
    labels.pop(0, None)
    if not labels:
        raise DataError(f"{where}: 'labels' names no organ besides the background")
    return dict(sorted(labels.items()))


def _renamed(where: Path, given: dict[int, str], card: Card | None) -> dict[int, str]:
    """Return the organ names by label value as the card renames them; raises DataError if two organs share a name."""
    labels = dict(given)
    for number, name in (card.organs if card else {}).items():
        if number in labels:
            labels[number] = name
        else:
            log.warning("%s: ignored label %d (%s) of the card: dataset.json does not have it", where, number, name)
    if len(set(labels.values())) < len(labels):
        raise DataError(f"{where}: 'labels' gives the same name to two values: {sorted(labels.values())}")
    return labels


def modality_of(where: Path, tree: dict[str, Any], card: Card | None) -> tuple[str, ...]:
    found = tree.get("modality", tree.get("channel_names"))
    try:
        channels = [str(found[key]) for key in sorted(found, key=int)] if isinstance(found, dict) else []
    except ValueError as error:
        raise DataError(
            f"{where}: 'modality' has keys {brief(list(found or ()))}, expected channel numbers '0', '1', ..."
        ) from error
    if not channels:
        raise DataError(f"{where}: the key 'modality' is missing or empty; expected {{'0': 'CT'}}, one entry per channel")
    if card is None:
        return tuple(modality_kind(text) for text in channels)
    if len(card.modality) not in (1, len(channels)):
        raise DataError(f"{where}: {len(channels)} channels, but its card gives {len(card.modality)} modalities; fix the card")
    return card.modality * (len(channels) // len(card.modality))


def modality_kind(text: str) -> str:
    """Return CT, MR, PET or US for a free description such as ``"cine MRI"``, or the text itself if it matches none of them.

    >>> modality_kind("FDG-PET"), modality_kind("T1gd"), modality_kind("TRUS"), modality_kind("X-ray")
    ('PET', 'MR', 'US', 'X-ray')
    """
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    return next((kind for kind, signs in _KINDS.items() if words & set(signs)), text)


def _cases(root: Path, entries: list[Any], card: Card | None, problems: list[BadCase], options: ReadOptions) -> Iterator[Case]:
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        name = f"training[{number}]"
        try:
            if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
                raise DataError(f"found {brief(entry)} in dataset.json, expected {{'image': path, 'label': path}}")
            if is_hidden(entry["image"]) or is_hidden(entry["label"]):
                continue
            name = case_name(entry["image"]) or name
            image, label = (path_inside(root, entry[key], options) for key in ("image", "label"))
            if name in seen:
                raise DataError("listed twice in dataset.json; case names must differ")
            seen.add(name)
            for path in (image, label):
                if reason := no_file(path):
                    raise DataError(f"{path}: {reason}; restore it or remove the case from dataset.json")
            yield Case(name, image, label, patient_of_case(name, card))
        except DataError as error:
            problems.append(BadCase(root.name, name, str(error)))


def _test_cases(
    root: Path, entries: list[Any], card: Card | None, problems: list[BadCase], options: ReadOptions
) -> Iterator[Case]:
    num_missing = 0
    for entry in entries:
        text = entry.get("image") if isinstance(entry, dict) else entry
        if is_hidden(text):
            continue
        try:
            image = path_inside(root, text, options)
        except DataError as error:
            problems.append(BadCase(root.name, case_name(text) or "test", str(error)))
            continue
        if not no_file(image):
            name = case_name(text)
            yield Case(name, image, None, (card.patient_of(name) if card else None) or name)
        else:
            num_missing += 1
    if num_missing:  # many copies of MSD lack imagesTs, and nothing here requires them
        log.warning("%s: skipped %d test images that dataset.json lists but that do not exist", root.name, num_missing)


def patient_of_case(case: str, card: Card | None) -> str:
    if card is None or card.patient is None:
        return case
    patient = card.patient_of(case)
    if patient is None:
        raise DataError(f"the card's 'patient' ({card.patient}) does not cover this case; extend it or remove the key")
    return patient


def card_of(root: Path) -> Card | None:
    """Return the ``card.yaml`` of a folder, else the shipped card of its name; a card.yaml that cannot be read raises ConfigError."""
    return read_card(root / "card.yaml") if os.path.lexists(root / "card.yaml") else load_card(root.name)


def path_inside(root: Path, text: Any, options: ReadOptions = STRICT) -> Path:
    """Return the path of a dataset.json entry; raises DataError if it is not a path or leaves the folder, links included."""
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text) > _LONGEST_PATH:
        raise DataError(f"found path {brief(text)} in dataset.json, expected a string such as './imagesTr/case.nii.gz'")
    parts = PurePosixPath(text.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", text):
        raise DataError(f"path {text!r} leaves the data set's folder; expected one inside it")
    path = root / parts
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name that is too long
        raise DataError(f"path {text!r} cannot be followed ({' '.join(str(error).split())}); fix the path or the link") from error
    if not inside:
        raise DataError(f"path {text!r} is a link that leaves the data set's folder; copy the file into it")
    return path


def is_hidden(text: Any) -> bool:
    return isinstance(text, str) and PurePosixPath(text).name.startswith("._")  # macOS resource forks


def case_name(text: Any) -> str:
    """Return the name of a scan's file without its suffix; "" for what cannot be a name."""
    if not isinstance(text, str) or not text.isprintable() or len(text) > _LONGEST_PATH:
        return ""
    name = re.sub(r"\.nii(\.gz)?$", "", PurePosixPath(text).name)
    return name if name.strip(".") else ""


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
