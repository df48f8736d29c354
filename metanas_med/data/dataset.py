"""Reading a data set folder in Medical Segmentation Decathlon layout: its cases, each with image, label and patient."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from ..parse import Unreadable, brief, kind_of, no_file, read_json
from .annotated import Annotated, annotated_reader, check_card_cases
from .bids import is_bids
from .bids import listed as bids_tree
from .cards import Card, load_card, read_card
from .case_names import Scheme, case_name, scheme_for
from .label_names import is_ignore, read_labels
from .layouts import case_of_channel, found_instead, refuse_nnunet
from .nnunet import is_nnunet, listed, read_splits
from .options import STRICT, ReadOptions
from .pairs import Pairs, tree_of
from .volumes import no_volume

log = logging.getLogger(__name__)

_PAIR = "{'image': path, 'label': path}"

#: Words in a dataset.json's modality that identify its kind; any other text is kept as written.
_KINDS = {
    "CT": ("ct", "cect", "ncct", "cbct"),
    "PET": ("pet", "suv"),
    "US": ("us", "trus", "ultrasound"),
    "MR": ("mr", "mri", "cmr", "t1", "t1w", "t1gd", "t1ce", "t2", "t2w", "flair", "adc", "dwi", "pd"),
}


_LONGEST_PATH = 1000  # characters


@dataclass(frozen=True)
class Case:
    """One scan: its name (the file name without suffix), its files and its patient."""

    name: str
    image: Path  #: the first file of its image
    label: Path | None
    patient: str
    annotated: Annotated = None  #: label values of the annotated organs; None: all
    more: tuple[Path, ...] = ()  #: the files of further channels, where each channel has a file of its own
    masks: tuple[
        tuple[int, Path], ...
    ] = ()  #: (label value, file), where each organ has a mask of its own; ``label`` is the first

    @property
    def images(self) -> tuple[Path, ...]:
        """The files of its image: one, or one a channel."""
        return (self.image, *self.more)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of its image, then its label map if it has one."""
        if self.masks:
            return (*self.images, *(path for _, path in self.masks))
        return self.images if self.label is None else (*self.images, self.label)


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
    channel_names: tuple[str, ...] = ()  #: one per channel, as written in dataset.json; empty for a plain folder
    ignore: int | None = None  #: the label value of voxels that count nowhere
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)  #: label values by the name of their union
    snomed: dict[str, str] = field(default_factory=dict)  #: SNOMED CT codes or keywords by organ name
    splits: tuple[dict[str, tuple[str, ...]], ...] = ()  #: folds of nnU-Net: names of cases under "train" and "val"


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
    return survey_tree(root, read_dataset_json(root), card_of(root) if card is None else card, options)


def survey_pairs(pairs: Pairs, options: ReadOptions = STRICT) -> tuple[Dataset, list[BadCase]]:
    """Return plain pairs as a data set, and the problems of pairs that cannot be used; links are followed, as the paths were given."""
    root = Path(os.path.abspath(pairs.images))
    card = card_of(root) or load_card(pairs.name)
    dataset, problems = survey_tree(root, tree_of(pairs), card, replace(options, follow_links=True))
    group = card.group if card else pairs.name
    return replace(dataset, name=pairs.name, group=group), [replace(row, dataset=pairs.name) for row in problems]


def survey_tree(root: Path, tree: dict[str, Any], card: Card | None, options: ReadOptions) -> tuple[Dataset, list[BadCase]]:
    """Return what ``survey_dataset`` does, of the content of a dataset.json or of what stands for it in other layouts."""
    where = root / "dataset.json"
    problems = problems_of(root, tree)
    table = read_labels(where, tree)
    given = table.labels
    labels = _renamed(where, given, card)
    annotated = annotated_reader(labels, given, card)
    training, test = listed_under(where, tree, "training"), listed_under(where, tree, "test", needed=False)
    scheme = scheme_for(listed_paths(training))
    cases = list(_cases(root, training, scheme, card, problems, options, annotated))
    check_card_cases(where, card, [row.name for row in cases] + [row.case for row in problems])
    unlabelled = list(_test_cases(root, test, scheme_for(listed_paths(test), scheme), card, problems, options))
    if isinstance(tree.get("problems"), tuple) and unlabelled:  # of a layout without a list
        log.warning("%s: %d scan(s) have no label map, such as %s", root.name, len(unlabelled), unlabelled[0].name)
    if not cases and not problems:
        raise DataError(f"{where}: found no training case; expected {{'image': ..., 'label': ...}} under 'training'")
    dataset = Dataset(
        name=root.name,
        root=root,
        modality=modality_of(where, tree, card),
        labels=labels,
        cases=tuple(cases),
        unlabelled=tuple(unlabelled),
        group=card.group if card else root.name,
        patients_known=bool(card and card.patient is not None) or names_patients(training),
        related=card.related if card else (),
        licence=as_text(tree.get("licence", tree.get("license", ""))),
        description=as_text(tree.get("description", "")),
        given_labels=given,
        channel_names=channel_names(where, tree),
        ignore=table.ignore,
        snomed={organ: str(code) for organ, code in card.snomed.items()} if card else {},
        regions=table.regions,
        splits=read_splits(root, [row.name for row in cases] + [row.case for row in problems]),
    )
    return dataset, problems


def read_dataset_json(root: Path) -> dict[str, Any]:
    """Return the content of a folder's dataset.json; raises DataError for a folder in another layout.

    For a folder of nnU-Net, the content gets the lists of cases that nnU-Net leaves to the names of files (``nnunet.listed``).
    """
    where = root / "dataset.json"
    if not root.is_dir():
        found = "this is a file" if root.is_file() else "no such folder"
        raise DataError(f"{root}: {found}; expected a folder in MSD layout (see 'Your own scans' in docs/data.md)")
    if reason := no_file(where):
        if reason == "no such file" and is_bids(root):
            return bids_tree(root)
        if reason == "no such file":
            refuse_nnunet(root)
        found = found_instead(root)
        raise DataError(
            f"{where}: {reason}; expected a folder in MSD layout (see 'Your own scans' in docs/data.md)"
            + (f". Found {found}" if found else "")
        )
    try:
        tree = read_json(where)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror})") from error
    except Unreadable as error:
        raise DataError(f"{where}: malformed, {error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{where}: malformed, found {kind_of(tree)}, expected an object with 'training' and 'labels'")
    if is_nnunet(tree):
        return listed(root, tree)
    refuse_nnunet(root, tree)
    return tree


def listed_under(where: Path, tree: dict[str, Any], key: str, needed: bool = True) -> list[Any]:
    """Return the list under ``key``; an absent or empty value is an empty list unless the key is ``needed``."""
    if needed and key not in tree:
        raise DataError(f"{where}: the key {key!r} is missing; expected a list of cases")
    listed = tree.get(key)
    if not listed and not needed:
        return []
    if not isinstance(listed, list):
        raise DataError(f"{where}: {key!r} is {kind_of(listed)} ({brief(listed)}), expected a list of cases")
    return listed


def listed_paths(entries: list[Any]) -> list[PurePosixPath]:
    """Return the image paths of a list of cases, as far as they are texts."""
    found = (named_by(entry.get("image") if isinstance(entry, dict) else entry) for entry in entries)
    return [path for path in found if path is not None and not is_hidden(str(path))]


def first_image(value: Any) -> Any:
    """Return the path of an entry's image, or of its first channel where each channel has a file of its own."""
    return value[0] if isinstance(value, list) and value else value


def named_by(value: Any) -> PurePosixPath | None:
    """Return the path that names the case of an image: without the number of a channel where each channel has a file.

    None for a value that is no path.
    """
    text = first_image(value)
    if not isinstance(text, str):
        return None
    path = as_path(text)
    case = case_of_channel(path.name) if isinstance(value, list) else ""
    return path.with_name(case + path.name[len(case) + 5 :]) if case else path


def paths_inside(root: Path, value: Any, options: ReadOptions = STRICT) -> tuple[Path, ...]:
    """Return the files of an image: ``value`` is a path, or a list of paths, one a channel; DataError as ``path_inside``."""
    if isinstance(value, list) and not value:
        raise DataError("found an empty list as image in dataset.json, expected a path for each channel")
    return tuple(path_inside(root, text, options) for text in (value if isinstance(value, list) else [value]))


def _renamed(where: Path, given: dict[int, str], card: Card | None) -> dict[int, str]:
    """Return the organ names by label value as the card renames them; raises DataError if two organs share a name."""
    labels = dict(given)
    for number, name in (card.organs if card else {}).items():
        if is_ignore(name):
            raise DataError(
                f"{where}: the card names label {number} {name!r}. A value to ignore is named in dataset.json: "
                f'"labels": {{..., "ignore": {number}}}'
            )
        if number in labels:
            labels[number] = name
        else:
            log.warning("%s: ignored label %d (%s) of the card: dataset.json does not have it", where, number, name)
    if len(set(labels.values())) < len(labels):
        raise DataError(f"{where}: 'labels' gives the same name to two values: {sorted(labels.values())}")
    return labels


def channel_names(where: Path, tree: dict[str, Any]) -> tuple[str, ...]:
    """Return one text per channel, as written under ``modality`` (MSD) or ``channel_names`` (nnU-Net) of dataset.json."""
    key = "channel_names" if "modality" not in tree and "channel_names" in tree else "modality"
    expected = "expected {'0': 'CT'}, one entry per channel"
    if key not in tree:
        raise DataError(f"{where}: the key 'modality' is missing; {expected}")
    found = tree[key]
    if not isinstance(found, dict):
        raise DataError(f"{where}: {key!r} is {kind_of(found)} ({brief(found)}); {expected}")
    if not found:
        raise DataError(f"{where}: {key!r} is empty; {expected}")
    try:
        numbers = sorted(found, key=int)
    except ValueError as error:
        raise DataError(f"{where}: {key!r} has keys {brief(sorted(found))}, expected channel numbers '0', '1', ...") from error
    for number in numbers:
        if not isinstance(found[number], str):
            raise DataError(f"{where}: {key!r} gives {brief(found[number])} for channel {number}, expected a text such as 'CT'")
    return tuple(found[number] for number in numbers)


def modality_of(where: Path, tree: dict[str, Any], card: Card | None) -> tuple[str, ...]:
    channels = channel_names(where, tree)
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


def _cases(
    root: Path,
    entries: list[Any],
    scheme: Scheme,
    card: Card | None,
    problems: list[BadCase],
    options: ReadOptions,
    annotated: Callable[[str, dict[str, Any]], Annotated],
) -> Iterator[Case]:
    seen: dict[str, PurePosixPath] = {}
    for number, entry in enumerate(entries):
        name = f"training[{number}]"
        try:
            if not isinstance(entry, dict):
                raise DataError(f"found {kind_of(entry)} ({brief(entry)}) in dataset.json, expected {_PAIR}")
            if missing := [key for key in ("image", "label") if key not in entry]:
                raise DataError(
                    f"found {brief(entry)} in dataset.json, without {' and '.join(map(repr, missing))}; expected {_PAIR}"
                )
            if is_hidden(first_image(entry["image"])) or is_hidden(entry["label"]):
                continue
            if (place := named_by(entry["image"])) is not None:
                name = scheme.name(place) or name
            images, label = paths_inside(root, entry["image"], options), path_inside(root, entry["label"], options)
            refuse_second(seen, name, place)
            masks = _masks(root, entry, options)
            for path in (*images, label, *(mask for _, mask in masks)):
                if reason := no_volume(path):
                    raise DataError(f"{path}: {reason}; restore it or remove the case from dataset.json")
            patient = patient_of_case(name, card, entry)
            yield Case(name, images[0], label, patient, annotated(name, entry), images[1:], masks)
        except DataError as error:
            problems.append(BadCase(root.name, name, str(error)))


def _masks(root: Path, entry: dict[str, Any], options: ReadOptions) -> tuple[tuple[int, Path], ...]:
    """Return (label value, file) of an entry whose organs have a mask each, ``{"masks": {"1": path}}``; none for a label map."""
    found = entry.get("masks", {})
    if not isinstance(found, dict) or not all(str(value).isdigit() and 0 < int(value) < 256 for value in found):
        raise DataError(f"found 'masks' {brief(found)} in dataset.json, expected {{'1': path}}, a mask for each label value")
    return tuple((int(value), path_inside(root, text, options)) for value, text in found.items())


def listed_scans(root: Path, tree: dict[str, Any]) -> list[Path]:
    """Return the files that a dataset.json lists under 'test', else those under 'training'; links are followed."""
    for key in ("test", "training"):
        entries = tree.get(key)
        images = [first_image(entry.get("image") if isinstance(entry, dict) else entry) for entry in entries or ()]
        paths = [root / as_path(text) for text in images if isinstance(text, str) and not is_hidden(text)]
        if found := [path for path in paths if not no_volume(path)]:
            return found
    return []


def refuse_second(seen: dict[str, PurePosixPath], name: str, path: PurePosixPath | None) -> None:
    """Note the path of a case; DataError if its name is taken: by the same file, or by another one."""
    assert path is not None
    other = seen.setdefault(name, path)
    if other is not path:
        if other == path:
            raise DataError("listed twice in dataset.json; case names must differ")
        raise DataError(f"{path} and {other} give the same case name; rename one of the files")


def _test_cases(
    root: Path, entries: list[Any], scheme: Scheme, card: Card | None, problems: list[BadCase], options: ReadOptions
) -> Iterator[Case]:
    num_missing = 0
    for entry in entries:
        value = entry.get("image") if isinstance(entry, dict) else entry
        if is_hidden(first_image(value)):
            continue
        try:
            images = paths_inside(root, value, options)
        except DataError as error:
            problems.append(BadCase(root.name, case_name(first_image(value)) or "test", str(error)))
            continue
        if not any(map(no_volume, images)):
            place = named_by(value)
            assert place is not None
            name = scheme.name(place)
            patient = named_patient(entry) or (card.patient_of(name) if card else None) or name
            yield Case(name, images[0], None, patient, more=images[1:])
        else:
            num_missing += 1
    if num_missing:  # many copies of MSD lack imagesTs, and nothing here requires them
        log.warning("%s: skipped %d test images that dataset.json lists but that do not exist", root.name, num_missing)


def problems_of(root: Path, tree: dict[str, Any]) -> list[BadCase]:
    """Return the problems of files that the reader of a layout without a list found; none for a dataset.json, whose values are lists."""
    found = tree.get("problems")
    return [BadCase(root.name, case, problem) for case, problem in found] if isinstance(found, tuple) else []


def names_patients(entries: Sequence[Any]) -> bool:
    """Return whether every entry of a list of cases names its patient, ``{"patient": "p1"}``."""
    return bool(entries) and all(map(named_patient, entries))


def named_patient(entry: Any) -> str:
    """Return the patient that an entry of a list of cases names, or an empty string."""
    return as_text(entry["patient"]) if isinstance(entry, dict) and entry.get("patient") else ""


def patient_of_case(case: str, card: Card | None, entry: Any = None) -> str:
    """Return the patient that a case's ``entry`` names, else its card, else the case itself; DataError if the card leaves it out."""
    if patient := named_patient(entry):
        return patient
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
    example = "expected a text such as './imagesTr/case.nii.gz'"
    if not isinstance(text, str):
        raise DataError(f"found {kind_of(text)} ({brief(text)}) as path in dataset.json, {example}")
    if not text.strip() or not text.isprintable() or len(text) > _LONGEST_PATH:
        raise DataError(f"found the path {brief(text)} in dataset.json, {example}")
    if options.follow_links:
        return Path(text) if Path(text).is_absolute() else root / as_path(text)
    parts = as_path(text)
    accept = "accept it with --follow-links"
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", text):
        raise DataError(f"path {text!r} leaves the data set's folder; expected one inside it. Change it, or {accept}")
    path = root / parts
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name that is too long
        raise DataError(f"path {text!r} cannot be followed ({' '.join(str(error).split())}); fix the path or the link") from error
    if not inside:
        raise DataError(f"path {text!r} is a link that leaves the data set's folder; copy the file into it, or {accept}")
    return path


def as_path(text: str) -> PurePosixPath:
    """Return a path of dataset.json, which may be written with backslashes."""
    return PurePosixPath(text.replace("\\", "/"))


def is_hidden(text: Any) -> bool:
    return isinstance(text, str) and PurePosixPath(text).name.startswith("._")  # macOS resource forks


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
