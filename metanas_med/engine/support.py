"""The support of an adaptation: its data set, the choice of scans, and warnings about them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.cache import BadCases, prepare
from ..data.cached import CachedCase, CachedDataset, open_cache
from ..data.options import STRICT, ReadOptions
from ..data.units import in_other_units
from ..errors import DataError, suggest
from ..files import default_cache
from ..tasks.episode import Episode, draw_split
from ..tasks.organ import OrganTask, held_labels, is_held

log = logging.getLogger(__name__)

#: patients that are drawn as support if no number is given
SHOTS = 5
#: cases that a message names
_SHOWN = 5


def open_dataset(
    path: Path | str, cache: Path | str | None = None, options: ReadOptions = STRICT, skip_bad: bool = False
) -> CachedDataset:
    """Return a data set given as a folder (prepared into ``cache`` if necessary) or as a cache file.

    Raises BadCases if a case of a folder cannot be used; with ``skip_bad`` only if none can, and a warning names the others. An
    organ that no scan holds is no error: a job that needs it says so.
    """
    path = Path(path)
    if path.suffix == ".h5":
        return open_cache(path)
    root = Path(os.path.abspath(path))  # links are not resolved: the cache uses the name of the link
    if cache is None:
        # two folders with the same name must not overwrite each other in the user's cache
        cache = default_cache() / hashlib.sha256(str(root).encode()).hexdigest()[:12]
    try:
        (row,) = prepare([path], cache, skip_bad=skip_bad, options=options)
    except BadCases as error:
        if any(problem.case for problem in error.rows):
            raise
        # only organs that no scan holds, unless the folder cannot be read at all
        (row,) = prepare([path], cache, skip_bad=True, options=options)
    bad = [problem for problem in row.bad if problem.case]
    if not row.cases:
        raise BadCases(bad or row.bad)
    for problem in bad[:_SHOWN]:
        log.warning("%s, %s is left out: %s", row.name, problem.case, problem.problem)
    if len(bad) > _SHOWN:
        log.warning("%s: %d more cases are left out; 'metanas-med prepare' lists them", row.name, len(bad) - _SHOWN)
    return open_cache(Path(cache) / f"{root.name}.h5")


def choose_support(
    dataset: CachedDataset, task: OrganTask, shots: int | None, seed: int, names: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return the names of the support cases and of the cases of all other patients that annotate an organ of the task.

    ``names`` fixes the support, in any order; otherwise ``shots`` patients are drawn with ``seed`` (None: ``SHOTS``, or all if
    there are fewer). Raises DataError if there are too few, or for a named case that cannot be used.
    """
    cases = {c.name: c for c in dataset.cases}
    if names:
        for name in names:
            _check_named(dataset, task, name, cases)
        support = sorted(set(names))  # the model does not depend on the order in which its scans are named
    else:
        support, _ = draw_split(dataset, task, SHOTS if shots is None else shots, 0, np.random.default_rng([seed, 7]))
        if shots is not None and len(support) < shots:
            bad = [row.case for row in dataset.set_aside if row.case]
            raise DataError(
                f"{task.key}: {shots} shots were asked for, found {len(support)} patient(s) with the organ. Lower --shots"
                + (f", or fix the cases that cannot be used: {', '.join(bad[:_SHOWN])}." if bad else ".")
            )
    _check_organs(dataset, task, support)
    used = {cases[n].patient for n in support}
    return support, [c.name for c in dataset.cases if c.patient not in used and len(task.missing_in(c)) < task.num_organs]


def _check_named(dataset: CachedDataset, task: OrganTask, name: str, cases: Mapping[str, CachedCase]) -> None:
    """Raise DataError if a case that was named as support does not exist, cannot be used, or annotates no organ of the task."""
    if name not in cases:
        for row in dataset.set_aside:
            if row.case == name:
                raise DataError(f"{dataset.name}, {name}, a support scan, cannot be used: {row.problem}")
        raise DataError(f"{dataset.name} has no case {name!r}; {suggest(name, cases)}")
    if len(task.missing_in(cases[name])) == task.num_organs:
        raise DataError(
            f"{dataset.name}, {name}: none of {', '.join(task.names)} is annotated in this scan. Leave it out of the support."
        )


def _check_organs(dataset: CachedDataset, task: OrganTask, support: Sequence[str]) -> None:
    """Raise DataError if the support scans contain no organ of the task; warn about single organs that they lack."""
    held = held_in(dataset, task, support)
    absent = [name for name, is_held in zip(task.names, held, strict=True) if not is_held]
    if len(absent) == task.num_organs:
        raise DataError(
            f"{task.key}: none of the support scans ({', '.join(support)}) contains a voxel of it. "
            "Choose scans that show the organ."
        )
    if absent:
        log.warning("no support scan contains %s: the model cannot learn it", ", ".join(absent))


def held_in(dataset: CachedDataset, task: OrganTask, names: Sequence[str]) -> list[bool]:
    """Return, for each organ of the task, whether one of the cases ``names`` annotates it and has a voxel of it."""
    found = [task.held_by(c) for c in dataset.cases if c.name in set(names)]
    return [any(organs) for organs in zip(*found, strict=True)]


def annotated_counts(dataset: CachedDataset, task: OrganTask, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return, for each organ that some of the cases ``names`` do not annotate, how many do, and how many cases there are."""
    missing = [task.missing_in(c) for c in dataset.cases if c.name in set(names)]
    counts = {name: sum(k not in organs for organs in missing) for k, name in enumerate(task.names, start=1)}
    return {name: (number, len(missing)) for name, number in counts.items() if number < len(missing)}


def warn_of_oddities(data: CachedDataset, organ: str, episode: Episode, scored: Sequence[str], usual: Sequence[float]) -> None:
    """Warn about organs that the model cannot learn, scans that lack one, duplicates, and scored scans in other units."""
    held = held_labels(data)
    if organ in ("all", "union") and (left_out := [name for value, name in data.labels.items() if value not in held]):
        log.warning("no scan of %s contains %s, or annotates it: the model cannot learn it", data.name, ", ".join(left_out))
    _warn_of_vanished(data, episode)
    support, names = [volume.name for volume in episode.support], episode.task.names
    if all(volume.missing for volume in episode.support):
        log.warning("no support scan annotates all of %s: the head starts with some of them as background", ", ".join(names))
    warn_of_copies(data, support, scored)
    warn_of_lacks(data, episode.task, support, scored)
    for case in data.cases:
        if case.name in scored and (told := in_other_units(case.spacing, usual, "the support")):
            log.warning("%s, %s, which is scored: %s", data.name, case.name, told)


def warn_of_copies(data: CachedDataset, support: Sequence[str], scored: Sequence[str]) -> None:
    """Warn about scans with the voxels of a support scan, which are not scored, and about scans that are scored twice."""
    own = {case.content_hash: case.name for case in reversed(data.cases) if case.name in support}
    for case in data.cases:
        first = own.get(case.content_hash, case.name)
        if first != case.name:
            what = "both are support scans of one patient" if case.name in support else "it is not scored"
            log.warning("%s holds the same voxels as the support scan %s: %s", case.name, first, what)
    contents: dict[str, str] = {}
    for case in data.cases:
        if case.name in scored and (twin := contents.setdefault(case.content_hash, case.name)) != case.name:
            log.warning("%s and %s, which are scored, hold the same voxels: their patient counts twice", twin, case.name)


def warn_of_lacks(data: CachedDataset, task: OrganTask, support: Sequence[str], scored: Sequence[str]) -> None:
    """Warn about scans without a voxel of an organ that other scans of the set hold: absent, or just not annotated?"""
    learned = is_held(data, task) if not support else held_in(data, task, support)
    for names, is_support in ((support, True), (scored, False)):
        groups: dict[tuple[str, ...], list[str]] = {}
        for case in data.cases:
            if case.name in set(names):
                held, missing = task.held_by(case), task.missing_in(case)
                lacks = [n for k, n in enumerate(task.names, 1) if learned[k - 1] and not held[k - 1] and k not in missing]
                if lacks:
                    groups.setdefault(tuple(lacks), []).append(case.name)
        for organs, cases in groups.items():
            _tell_lack(cases, organs, is_support, task.num_organs)


def _tell_lack(cases: Sequence[str], organs: Sequence[str], is_support: bool, num_organs: int) -> None:
    """Log the warning about ``cases`` that hold no voxel of ``organs``."""
    shown = ", ".join(cases[:_SHOWN]) + (f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else "")
    hold, they = "hold" if len(cases) > 1 else "holds", "they are" if len(organs) > 1 else "it is"
    effect = f"{they} learned as background there" if is_support else "the Dice there is 1 if the model finds nothing, else 0"
    other = f", or fit {', '.join(organs)} from the other scans" if is_support and num_organs > 1 else ""
    other = other or (", or leave out these scans" if is_support else "")
    log.warning(
        "%s%s %s no voxel of %s: %s. If %s visible but not annotated, say so with 'annotated' in dataset.json (docs/data.md)%s",
        shown,
        "" if is_support else ", scored,",
        hold,
        ", ".join(organs),
        effect,
        they,
        other,
    )


def _warn_of_vanished(dataset: CachedDataset, episode: Episode) -> None:
    """Warn about organs of the support scans that have no voxel left after resampling to the plan's spacing."""
    task = episode.task
    left = {int(value) for volume in episode.support for value in volume.label.unique()}
    held = held_in(dataset, task, [volume.name for volume in episode.support])
    gone = [name for k, name in enumerate(task.names, start=1) if held[k - 1] and k not in left]
    if gone:
        log.warning(
            "no voxel of %s is left in any support scan on the planned grid of %s mm: the model cannot learn it; "
            "raise --plan.view_voxels%s",
            ", ".join(gone),
            " x ".join(f"{size:.3g}" for size in episode.plan.spacing),
            ", or fit it alone (--organ NAME)" if task.num_organs > 1 else "",
        )
