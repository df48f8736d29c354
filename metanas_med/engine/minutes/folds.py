"""Folds over the patients of a support: what is trained on, and what is left out and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.cached import CachedDataset
from ...tasks.organ import OrganTask
from ..support import held_in
from .views import FOLDS, Copies

#: random splits that are compared
_TRIES = 60


@dataclass(frozen=True)
class Fold:
    """One part of a split: the names of the scans to train on and of those that are left out."""

    train: tuple[str, ...]
    left: tuple[str, ...]
    lacks: tuple[str, ...] = ()  #: organs that no training scan holds: they do not count in the fold
    copies: Copies | None = None  #: train on transformed copies of the scans, and score others; ``left`` is empty then


@dataclass(frozen=True)
class Splits:
    """``repeats`` random splits of a support, each a list of folds; empty with the reason in ``why_not``."""

    repeats: tuple[tuple[Fold, ...], ...]
    weak: bool = False  #: the folds share patients
    why_not: str = ""


def split_support(
    data: CachedDataset, task: OrganTask, support: Sequence[str], num_folds: int, num_repeats: int, seed: int
) -> Splits:
    """Return splits of the patients of ``support`` into ``num_folds`` parts, or as many as there are patients.

    Of random splits, those whose training scans lack the fewest organs are taken. With one patient, folds are transformed copies of
    the scans. No split is possible where training scans hold no organ at all.
    """
    patient = {case.name: case.patient for case in data.cases}
    patients = sorted({patient[name] for name in support})
    if len(patients) == 1:
        every = tuple(support)
        return Splits((tuple(Fold(every, (), copies=copies) for copies in FOLDS),), weak=True)
    num_folds = min(num_folds, len(patients))
    generator, found = np.random.default_rng([seed, 29]), dict[frozenset[frozenset[str]], tuple[Fold, ...]]()
    for _ in range(_TRIES):
        order = [patients[int(i)] for i in generator.permutation(len(patients))]
        parts = [frozenset(order[k::num_folds]) for k in range(num_folds)]
        if (key := frozenset(parts)) not in found:
            found[key] = tuple(_fold(data, task, support, patient, part) for part in parts)
    # sorting is stable: equal splits stay in random order
    best = sorted(found.values(), key=lambda folds: sum(len(fold.lacks) for fold in folds))
    usable = [folds for folds in best if all(len(fold.lacks) < task.num_organs for fold in folds)]
    if not usable:
        return Splits((), why_not="no split of the patients leaves an organ in the training scans of every fold")
    return Splits(tuple(usable[:num_repeats]))


def _fold(
    data: CachedDataset, task: OrganTask, support: Sequence[str], patient: dict[str, str], left_out: frozenset[str]
) -> Fold:
    train = tuple(name for name in support if patient[name] not in left_out)
    left = tuple(name for name in support if patient[name] in left_out)
    held = held_in(data, task, train)
    return Fold(train, left, tuple(name for name, is_held in zip(task.names, held, strict=True) if not is_held))
