"""Organ tasks: which labels of a data set make up the organs 1..K of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, suggest


@dataclass(frozen=True)
class OrganTask:
    """A segmentation task on one data set; ``organs[k - 1]`` are the label values that make organ k."""

    dataset: str
    names: tuple[str, ...]
    organs: tuple[tuple[int, ...], ...]

    @property
    def num_organs(self) -> int:
        return len(self.organs)

    @property
    def key(self) -> str:
        """A readable name, unique within a distribution: ``dataset/organ+organ``."""
        return f"{self.dataset}/{'+'.join(self.names)}"

    def remap(self, label: np.ndarray) -> np.ndarray:
        """Return the organ map, uint8, 0 where no organ of the task is, of a label map (X, Y, Z) uint8."""
        table = np.zeros(256, dtype=np.uint8)
        for organ, values in enumerate(self.organs, start=1):
            for value in values:
                table[value] = organ
        return table[label]


def task_of(dataset: str, labels: Mapping[int, str], organ: str = "all", aliases: Mapping[int, str] | None = None) -> OrganTask:
    """Return the task that ``organ`` names: one label, several joined by ``,`` (one organ each) or by ``+`` (their union).

    ``all`` makes each label an organ, ``union`` makes all of them one. ``labels`` maps label values to organ names, background
    left out. Names are matched without regard to case; a label's number serves too. Raises DataError for an unknown organ,
    naming the known ones, and for a label that is named twice.
    """
    if not labels:
        raise DataError(f"{dataset} declares no organ")
    if organ == "all":
        return OrganTask(dataset, tuple(labels.values()), tuple((v,) for v in labels))
    if organ == "union":
        return OrganTask(dataset, ("union",), (tuple(labels),))
    known = {name.casefold(): value for value, name in (aliases or {}).items() if value in labels}
    known |= {name.casefold(): value for value, name in labels.items()} | {str(value): value for value in labels}
    whole = organ.strip().casefold()
    parts = [organ.strip()] if whole in known else [p.strip() for p in organ.split(",")]
    organs = []
    for part in parts:
        pieces = [part] if part.casefold() in known else [p.strip() for p in part.split("+")]
        for piece in pieces:
            if piece.casefold() not in known:
                near = suggest(piece, labels.values(), name_all=True)
                raise DataError(f"{dataset} has no organ {piece!r}; {near}; or 'all', or 'union'")
        organs.append(tuple(known[p.casefold()] for p in pieces))
    values = [value for values in organs for value in values]
    if twice := [value for value in values if values.count(value) > 1]:
        raise DataError(f"{dataset}: {labels[twice[0]]!r} stands twice in {organ!r}; a label can be part of one organ only")
    return OrganTask(dataset, tuple("+".join(labels[v] for v in values) for values in organs), tuple(organs))


def tasks_of(dataset: str, labels: Mapping[int, str], unions: bool = True) -> tuple[OrganTask, ...]:
    """Return a data set's tasks: each label; with several labels and ``unions`` also all at once, and the union of all."""
    single: Sequence[OrganTask] = [task_of(dataset, labels, str(value)) for value in labels]
    if len(labels) < 2 or not unions:
        return tuple(single)
    return (*single, task_of(dataset, labels, "all"), task_of(dataset, labels, "union"))
