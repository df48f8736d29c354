"""The labels of a dataset.json: organs by value, regions (unions of values) and the value of voxels that count nowhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..parse import brief, kind_of

_EXPECTED = "expected {'0': 'background', '1': name, ...}"
_LONGEST_NAME = 200  # characters
_IGNORE = re.compile(r"(to[ _-]?)?(be[ _-]?)?ignored?([ _-]?(label|region|voxels?|index|class|area|mask))?")


@dataclass(frozen=True)
class LabelTable:
    """What label values mean: ``labels`` by value without the background, ``regions`` by name, and the ``ignore`` value."""

    labels: dict[int, str]
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignore: int | None = None


def read_labels(where: Path, tree: dict[str, Any]) -> LabelTable:
    """Return the table of ``{"1": "spleen"}`` (MSD) or ``{"spleen": 1, "both": [1, 2], "ignore": 3}`` (nnU-Net).

    A value that regions alone name gets the name of the one region that it forms alone, else ``label N``. Raises DataError for
    anything else.
    """
    if "labels" not in tree:
        raise DataError(f"{where}: the key 'labels' is missing; {_EXPECTED}")
    found = tree["labels"]
    if not isinstance(found, dict):
        raise DataError(f"{where}: 'labels' is {kind_of(found)} ({brief(found)}); {_EXPECTED}")
    if not found:
        raise DataError(f"{where}: 'labels' is empty; {_EXPECTED}")
    labels: dict[int, str] = {}
    regions: dict[str, tuple[int, ...]] = {}
    ignore: int | None = None
    for key, value in found.items():
        text, name = (key, value) if isinstance(value, str) else (value, key)
        given = f"found label {brief(key)}: {brief(value)}"
        if isinstance(value, list):
            regions[_checked_name(where, name)] = _region(where, given, value)
            continue
        number = _value(where, given, text)
        _checked_name(where, name)
        if number in labels or number == ignore:
            other = labels.get(number, "ignore")
            raise DataError(f"{where}: 'labels' gives value {number} twice, to {other!r} and {name!r}; expected one name")
        if number and is_ignore(name):
            if ignore is not None:
                raise DataError(f"{where}: 'labels' has two values to ignore, {ignore} and {number}; expected one")
            ignore = number
            continue
        if number and name.strip().lower() == "background":
            raise DataError(f"{where}: label {number} is named {name!r}, expected the background as 0 and organs from 1")
        labels[number] = name
    labels.pop(0, None)
    _name_parts(where, labels, regions, ignore)
    if not labels:
        raise DataError(f"{where}: 'labels' names no organ besides the background")
    return LabelTable(dict(sorted(labels.items())), regions, ignore)


def is_ignore(name: str) -> bool:
    """Return whether the name of a label says that its voxels are to be ignored."""
    return bool(_IGNORE.fullmatch(name.strip().lower()))


def _name_parts(where: Path, labels: dict[int, str], regions: dict[str, tuple[int, ...]], ignore: int | None) -> None:
    """Add a name for each value that only regions name; a region of one value is a label and no region."""
    for name, values in list(regions.items()):
        if ignore in values:
            raise DataError(f"{where}: the region {name!r} holds {ignore}, the value to ignore; expected values of organs")
        if len(values) == 1:
            del regions[name]
            if values[0] in labels:
                raise DataError(f"{where}: 'labels' gives value {values[0]} twice, to {labels[values[0]]!r} and {name!r}")
            labels[values[0]] = name
    for values in regions.values():
        for value in values:
            labels.setdefault(value, f"label {value}")
    if twice := sorted(set(labels.values()) & set(regions)):
        raise DataError(f"{where}: {twice[0]!r} is a label and a region; expected different names")


def _region(where: Path, given: str, values: list[Any]) -> tuple[int, ...]:
    found = tuple(_value(where, given, value) for value in values)
    if not found or len(set(found)) < len(found) or 0 in found:
        raise DataError(f"{where}: {given}, expected a list of different label values from 1 for a region")
    return tuple(sorted(found))


def _value(where: Path, given: str, text: Any) -> int:
    try:
        number = int(text)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: {given}, expected a value and a name") from error
    # int() also reads "1_0" as 10, and digits of other scripts
    plain = re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) if isinstance(text, str) else number == text
    if isinstance(text, bool) or not plain:
        raise DataError(f"{where}: {given}, expected a whole number as value")
    if not 0 <= number <= 255:
        raise DataError(f"{where}: {given}, expected a value in 0..255")
    return number


def _checked_name(where: Path, name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise DataError(f"{where}: found {brief(name)} as the name of an organ, expected a word or a few")
    return name
