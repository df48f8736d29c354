"""Which organs are annotated in a scan: read from dataset.json or the card. An organ may be absent, or just not annotated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, suggest
from .cards import Card

#: label values; None: all organs of the data set
Annotated = tuple[int, ...] | None


def annotated_reader(
    labels: Mapping[int, str], given: Mapping[int, str], card: Card | None
) -> Callable[[str, Mapping[str, Any]], Annotated]:
    """Return a function of a case's name and its entry in dataset.json: the label values that are annotated, None for all.

    ``labels`` are the organ names by label value, ``given`` those of dataset.json before the card. The function raises
    DataError for an unknown organ, or if dataset.json and the card differ.
    """

    def read(case: str, entry: Mapping[str, Any]) -> Annotated:
        found = []
        if "annotated" in entry:
            found.append(_values(entry["annotated"], labels, given))
        if card and case in card.annotated:
            found.append(_values(list(card.annotated[case]), labels, given))
        if len(found) == 2 and found[0] != found[1]:
            raise DataError("'annotated' of dataset.json and the card differ for this case; remove it from one of the two")
        return found[0] if found else None

    return read


def check_card_cases(where: Path, card: Card | None, cases: Collection[str]) -> None:
    """Raise DataError if the card's ``annotated`` names a case that is not one of ``cases``: a typing error must not be lost."""
    for name in card.annotated if card else ():
        if name not in cases:
            raise DataError(
                f"the card (card.yaml) of {where.parent}: 'annotated' names {name!r}, which is not a case of dataset.json; "
                f"{suggest(name, cases)}"
            )


def refuse_unannotated(label: Path, counts: np.ndarray, annotated: Annotated, labels: Mapping[int, str]) -> None:
    """Raise DataError if ``counts`` (256,), voxels by label value, has an organ that is not annotated in this scan."""
    for value in labels:
        if counts[value] and not annotates(annotated, (value,)):
            raise DataError(
                f"{label}: found {counts[value]} voxels of {labels[value]!r}, which 'annotated' of this case does not name. "
                "Add it to 'annotated', or set these voxels to 0 if they are not a complete annotation."
            )


def annotates(annotated: Annotated, values: Sequence[int]) -> bool:
    """Return whether all label ``values`` are annotated."""
    return annotated is None or set(values) <= set(annotated)


def _values(organs: Any, labels: Mapping[int, str], given: Mapping[int, str]) -> Annotated:
    example = [next(iter(labels.values()))]
    if not isinstance(organs, list):
        raise DataError(f"'annotated' is {organs!r}, expected a list of organs such as {example}")
    if not organs:
        raise DataError("'annotated' is empty; name the annotated organs, or list the scan under 'test' in dataset.json")
    found = tuple(sorted({_value(organ, labels, given) for organ in organs}))
    return None if len(found) == len(labels) else found


def _value(organ: Any, labels: Mapping[int, str], given: Mapping[int, str]) -> int:
    """Return the label value of a name or number; an exact name has priority over one in another case, and over a number."""
    if isinstance(organ, int) and not isinstance(organ, bool) and organ in labels:
        return organ
    if isinstance(organ, str):
        for form in (str, str.casefold):
            for names in (labels, given):
                values = [value for value, name in names.items() if form(name) == form(organ) and value in labels]
                if len(values) == 1:
                    return values[0]
        if organ.isdigit() and int(organ) in labels:
            return int(organ)
    raise DataError(f"'annotated' names {organ!r}; {suggest(str(organ), labels.values())}")
