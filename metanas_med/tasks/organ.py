"""Organ tasks: which labels of a data set make up the organs 1..K of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..data.cached import CachedCase, CachedDataset
from ..errors import DataError, suggest
from ..ignored import IGNORED


@dataclass(frozen=True)
class OrganTask:
    """A segmentation task on one data set; ``organs[k - 1]`` are the label values of organ k, ``parts[k - 1]`` their names.

    Without ``parts``, each organ is one label with the organ's name.
    """

    dataset: str
    names: tuple[str, ...]
    organs: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[str, ...], ...] = ()

    @property
    def num_organs(self) -> int:
        return len(self.organs)

    @property
    def part_names(self) -> tuple[tuple[str, ...], ...]:
        """The names of the labels that form each organ."""
        return self.parts or tuple((name,) for name in self.names)

    def on(self, dataset: str, labels: Mapping[int, str], aliases: Mapping[int, str] | None = None) -> OrganTask:
        """Return the same organs on another data set; labels are matched by name, their values may differ.

        ``labels`` and ``aliases`` are as for ``task_of``. Raises DataError for an unknown label, for a name that matches
        several labels, and if two organs would share a label.
        """

        def value_of(name: str) -> int:
            if (value := _value_of(dataset, name, labels, aliases)) is None:
                raise DataError(f"{dataset} has no organ {name!r}; {suggest(name, labels.values(), name_all=True)}")
            return value

        organs = tuple(tuple(value_of(name) for name in names) for names in self.part_names)
        for (one, name), (other, twin) in combinations(zip(organs, self.names, strict=True), 2):
            if both := set(one) & set(other):
                raise DataError(f"{dataset} has one label {labels[min(both)]!r} for {name!r} and {twin!r}; expected one for each")
        return OrganTask(dataset, self.names, organs, self.parts)

    @property
    def key(self) -> str:
        """A readable name, unique within a distribution: ``dataset/organ+organ``."""
        return f"{self.dataset}/{'+'.join(self.names)}"

    def missing_in(self, case: CachedCase) -> tuple[int, ...]:
        """Return the organs 1..K that are not annotated in a scan; a union is annotated only if all its parts are."""
        if case.annotated is None:
            return ()
        return tuple(k for k, values in enumerate(self.organs, start=1) if not case.annotates(values))

    def held_by(self, case: CachedCase) -> tuple[bool, ...]:
        """Return for each organ whether a scan annotates it and has a voxel of it."""
        missing = self.missing_in(case)
        return tuple(
            k not in missing and any(case.label_voxels.get(value, 0) for value in values)
            for k, values in enumerate(self.organs, start=1)
        )

    def remap(self, label: np.ndarray, missing: Collection[int] = (), ignore: int | None = None) -> np.ndarray:
        """Return the organ map, uint8, of a label map (X, Y, Z) uint8; 0 outside the organs of the task.

        ``missing`` organs are 0, too: a part of a union may be annotated where the whole is not. Voxels of the label value
        ``ignore`` become IGNORED.
        """
        table = np.zeros(256, dtype=np.uint8)
        for organ, values in enumerate(self.organs, start=1):
            for value in () if organ in missing else values:
                table[value] = organ
        if ignore is not None:
            table[ignore] = IGNORED
        return table[label]


def task_of(
    dataset: str,
    labels: Mapping[int, str],
    organ: str = "all",
    aliases: Mapping[int, str] | None = None,
    regions: Mapping[str, tuple[int, ...]] | None = None,
) -> OrganTask:
    """Return the task that ``organ`` describes: one label, or several joined by ``,`` (one organ each) or by ``+`` (their union).

    ``all`` makes each label an organ, ``union`` combines all labels into one. ``labels`` maps label values to organ names,
    without the background, and ``regions`` names unions of them. An exact name has priority over one that differs in case only,
    a label over a region, and all over a label's number. Raises DataError for an unknown organ (the message lists the known
    ones), for an ambiguous name, and for a label that is named twice.
    """
    if not labels:
        raise DataError(f"{dataset} declares no organ")
    if organ == "all":
        return OrganTask(dataset, tuple(labels.values()), tuple((v,) for v in labels))
    if organ == "union":
        return OrganTask(dataset, ("union",), (tuple(labels),), (tuple(labels.values()),))

    regions = regions or {}

    def values_of(name: str) -> tuple[int, ...]:
        value = _value_of(dataset, name, labels, aliases)
        if value is None and (region := _region_of(name, regions)):
            return regions[region]
        # numbers have the lowest priority: some organs, such as teeth, have numbers as names that are values of other labels
        value = {str(number): number for number in labels}.get(name) if value is None else value
        return () if value is None else (value,)

    parts = [organ.strip()] if values_of(organ.strip()) else [p.strip() for p in organ.split(",")]
    organs, names = [], []
    for part in parts:
        pieces = [part] if values_of(part) else [p.strip() for p in part.split("+")]
        found = [values_of(piece) for piece in pieces]
        if () in found:
            piece = pieces[found.index(())]
            near = suggest(piece, [*labels.values(), *regions], name_all=True)
            raise DataError(f"{dataset} has no organ {piece!r}; {near}; or 'all', or 'union'")
        organs.append(tuple(value for values in found for value in values))
        names.append(_region_of(part, regions) if len(found) == 1 and len(found[0]) > 1 else "")
    values = [value for values in organs for value in values]
    if twice := [value for value in values if values.count(value) > 1]:
        raise DataError(f"{dataset}: {labels[twice[0]]!r} appears twice in {organ!r}; a label can be part of one organ only")
    parts = tuple(tuple(labels[v] for v in values) for values in organs)
    joined = parts if any(len(names) > 1 for names in parts) else ()
    titles = tuple(name or "+".join(own) for name, own in zip(names, parts, strict=True))
    return OrganTask(dataset, titles, tuple(organs), joined)


def _region_of(name: str, regions: Collection[str]) -> str:
    """Return the region of a name, exact or in another case; empty for none."""
    exact = [region for region in regions if region == name] or [r for r in regions if r.casefold() == name.casefold()]
    return exact[0] if exact else ""


def _value_of(dataset: str, name: str, labels: Mapping[int, str], aliases: Mapping[int, str] | None) -> int | None:
    """Return the label value of a name, None for an unknown one; raises DataError if it matches several labels.

    An exact match has priority over one in another case, then a current name over one that a card has changed.
    """
    older = {value: alias for value, alias in (aliases or {}).items() if value in labels}
    for form in (str, str.casefold):
        for names in (labels, older):
            found = [value for value, known in names.items() if form(known) == form(name)]
            if len(found) > 1:
                which = " or ".join(f"{labels[value]!r} (label {value})" for value in found)
                raise DataError(f"{dataset}: {name!r} may be {which}; write one of these exactly")
            if found:
                return found[0]
    return None


def organ_map(dataset: CachedDataset, task: OrganTask, case: str, missing: Collection[int] = ()) -> np.ndarray:
    """Return the organ map (X, Y, Z) uint8 of a case: organs 1..K, IGNORED where its voxels count nowhere, else 0."""
    return task.remap(dataset.label(case), missing, dataset.ignore)


def held_labels(dataset: CachedDataset) -> dict[int, str]:
    """Return the organ names by label value of a data set, without organs that no case shows."""
    held = {value for case in dataset.cases for value, count in case.label_voxels.items() if count}
    return {value: name for value, name in dataset.labels.items() if value in held}


def is_held(dataset: CachedDataset, task: OrganTask) -> list[bool]:
    """Return for each organ of a task whether a scan of the data set annotates it and has a voxel of it."""
    return [any(found) for found in zip(*(task.held_by(case) for case in dataset.cases), strict=True)]


def organ_is_absent(key: str, dataset: CachedDataset, values: Collection[int] = ()) -> DataError:
    """Return the error to raise if no scan of a data set shows the organ of task ``key``.

    ``values``: the label values of a union. If a scan holds one of them, no scan annotates them all.
    """
    if held_labels(dataset).keys() & set(values):
        return DataError(
            f"{key}: no scan that holds the organ annotates all of its parts. Fit the parts one by one, or correct 'annotated'."
        )
    return DataError(f"{key}: no scan holds the organ. Expected at least one; check the labels of {dataset.name}.")


def task_in(dataset: CachedDataset, organ: str = "all") -> OrganTask:
    """Return the task that ``organ`` describes (see ``task_of``); ``all`` and ``union`` skip organs that no scan shows.

    Raises DataError if no scan shows a requested organ, and as ``task_of`` does.
    """
    held = held_labels(dataset)
    labels = held if held and organ in ("all", "union") else dataset.labels
    task = task_of(dataset.name, labels, organ, dataset.given_labels, dataset.regions)
    for name, values, found in zip(task.names, task.organs, is_held(dataset, task), strict=True):
        if not found:
            raise organ_is_absent(f"{dataset.name}/{name}", dataset, values)
    return task


def tasks_of(dataset: str, labels: Mapping[int, str], unions: bool = True) -> tuple[OrganTask, ...]:
    """Return a data set's tasks: one per label; with several labels and ``unions`` also all together, and their union."""
    single = [OrganTask(dataset, (name,), ((value,),)) for value, name in labels.items()]
    if len(labels) < 2 or not unions:
        return tuple(single)
    return (*single, task_of(dataset, labels, "all"), task_of(dataset, labels, "union"))
