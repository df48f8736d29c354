"""Notes about cases in few lines: one for each note, with the number of its cases and the first names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cached import CachedDataset

log = logging.getLogger(__name__)

#: number of names that a line shows
_SHOWN = 3


def grouped_notes(notes: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return one line per different note, given the notes by case name.

    >>> grouped_notes({"a": ["odd"], "b": ["odd"], "c": []})
    ('2 case(s): odd: a, b',)
    """
    cases: dict[str, list[str]] = {}
    for case, own in notes.items():
        for note in own:
            cases.setdefault(note, []).append(case)
    return tuple(f"{len(named)} case(s): {note}: {_some(named)}" for note, named in cases.items())


def warn_of_notes(data: CachedDataset, names: Iterable[str]) -> None:
    """Log what the headers of the cases ``names`` left open, and what was assumed."""
    used = set(names)
    for line in grouped_notes({case.name: case.notes for case in data.cases if case.name in used}):
        log.warning("%s: %s", data.name, line)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
