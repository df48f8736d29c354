"""Tasks of some scans of a support, and the folds that leave scans out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...learner import Task
from ...learner.episode import BatchLike, SupportLike


@dataclass(frozen=True)
class Subset:
    """The support of some ``scans`` of ``whole``, numbered from 0; the other scans cannot be read."""

    whole: SupportLike
    scans: tuple[int, ...]

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[BatchLike]:
        """Yield one batch for each request of (size, scan numbers), in order."""
        return self.whole.stream([(size, [self.scans[i] for i in numbers]) for size, numbers in requests])

    def views(self, scan: int) -> BatchLike:
        """Return unaugmented views of one scan."""
        return self.whole.views(self.scans[scan])


def restricted(task: Task, scans: Sequence[int]) -> Task:
    """Return ``task`` with the given support scans only, in their order; it has no key, because it is no recurring task."""
    return replace(task, support=Subset(task.support, tuple(scans)), num_scans=len(scans), key="")


def left_out(num_scans: int, folds: int, groups: Sequence[int], generator: np.random.Generator) -> list[list[int]]:
    """Return the scans that each fold leaves out; every scan is left out once.

    ``groups``: the patient of each scan, whose scans are left out together (empty: every scan is its own). ``folds``: 0 leaves out
    one group at a time; otherwise groups are dealt to this many folds at random, or to one fold a group where there are fewer.
    A single group gives no fold, because nothing would be left to learn from.
    """
    if groups and len(groups) != num_scans:
        raise ValueError(f"expected a group for each of {num_scans} scans, found {len(groups)}")
    own = list(groups) or list(range(num_scans))
    names = sorted(set(own))
    if len(names) < 2:
        return []
    number = min(folds, len(names)) or len(names)
    if number < len(names):
        names = [names[int(i)] for i in generator.permutation(len(names))]
    return [[scan for scan in range(num_scans) if own[scan] in names[fold::number]] for fold in range(number)]
