"""The support of an adaptation: its data set, the choice of scans, and warnings about them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.cache import prepare
from ..data.cached import CachedDataset, open_cache
from ..data.options import STRICT, ReadOptions
from ..data.units import in_other_units
from ..errors import DataError, suggest
from ..files import default_cache
from ..tasks.episode import Episode, draw_split
from ..tasks.organ import OrganTask, held_labels

log = logging.getLogger(__name__)


def open_dataset(path: Path | str, cache: Path | str | None = None, options: ReadOptions = STRICT) -> CachedDataset:
    """Return a data set given as a folder (prepared into ``cache`` if necessary) or as a cache file."""
    path = Path(path)
    if path.suffix == ".h5":
        return open_cache(path)
    root = Path(os.path.abspath(path))  # links are not resolved: the cache uses the name of the link
    if cache is None:
        # two folders with the same name must not overwrite each other in the user's cache
        cache = default_cache() / hashlib.sha256(str(root).encode()).hexdigest()[:12]
    prepare([path], cache, options=options)
    return open_cache(Path(cache) / f"{root.name}.h5")


def choose_support(
    dataset: CachedDataset, task: OrganTask, shots: int, seed: int, names: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return the names of the support cases and of the labelled cases of all other patients.

    ``names`` fixes the support; otherwise ``shots`` patients are drawn with ``seed``. Raises DataError if there are too few.
    """
    patient = {c.name: c.patient for c in dataset.cases}
    if names:
        unknown = [n for n in names if n not in patient]
        if unknown:
            raise DataError(f"{dataset.name} has no case {unknown[0]!r}; {suggest(unknown[0], patient)}")
        support = list(dict.fromkeys(names))
    else:
        support, _ = draw_split(dataset, task, shots, 0, np.random.default_rng([seed, 7]))
        if len(support) < shots:
            raise DataError(
                f"{task.key}: {shots} shots were asked for, found {len(support)} patient(s) with the organ. Lower --shots."
            )
    _check_organs(dataset, task, support)
    used = {patient[n] for n in support}
    return support, [c.name for c in dataset.cases if c.patient not in used]


def _check_organs(dataset: CachedDataset, task: OrganTask, support: Sequence[str]) -> None:
    """Raise DataError if the support scans contain no organ of the task; warn about single organs that they lack."""
    held = _held(dataset, task, support)
    absent = [name for name, is_held in zip(task.names, held, strict=True) if not is_held]
    if len(absent) == task.num_organs:
        raise DataError(
            f"{task.key}: none of the support scans ({', '.join(support)}) contains a voxel of it. "
            "Choose scans that show the organ."
        )
    if absent:
        log.warning("no support scan contains %s: the model cannot learn it", ", ".join(absent))


def _held(dataset: CachedDataset, task: OrganTask, support: Sequence[str]) -> list[bool]:
    """Return, for each organ of the task, whether a support scan has a voxel of it."""
    counts = [c.label_voxels for c in dataset.cases if c.name in set(support)]
    return [any(count.get(value) for count in counts for value in values) for values in task.organs]


def warn_of_oddities(data: CachedDataset, organ: str, episode: Episode, scored: Sequence[str], usual: Sequence[float]) -> None:
    """Warn about organs that the model cannot learn, and about scored scans in other units than ``usual``."""
    held = held_labels(data)
    if organ in ("all", "union") and (left_out := [name for value, name in data.labels.items() if value not in held]):
        log.warning("no scan of %s contains %s: the model cannot learn it", data.name, ", ".join(left_out))
    _warn_of_vanished(data, episode)
    for case in data.cases:
        if case.name in scored and (told := in_other_units(case.spacing, usual, "the support")):
            log.warning("%s, %s, which is scored: %s", data.name, case.name, told)


def _warn_of_vanished(dataset: CachedDataset, episode: Episode) -> None:
    """Warn about organs of the support scans that have no voxel left after resampling to the plan's spacing."""
    task = episode.task
    left = {int(value) for volume in episode.support for value in volume.label.unique()}
    held = _held(dataset, task, [volume.name for volume in episode.support])
    gone = [name for k, name in enumerate(task.names, start=1) if held[k - 1] and k not in left]
    if gone:
        log.warning(
            "no voxel of %s is left in any support scan on the planned grid of %s mm: the model cannot learn it; "
            "raise --plan.view_voxels%s",
            ", ".join(gone),
            " x ".join(f"{size:.3g}" for size in episode.plan.spacing),
            ", or fit it alone (--organ NAME)" if task.num_organs > 1 else "",
        )
