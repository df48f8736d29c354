"""Which cases a grid adapts to and scores, and the data sets and meta-trained runs that its cells share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...data.cached import CachedDataset, open_cache
from ...engine.meta_run import MetaRun
from ...engine.support import choose_support
from ...errors import ConfigError
from ...tasks.organ import OrganTask


def data_folders(root: Path) -> list[Path]:
    """Return the data set folders in ``root``; ConfigError where there are none."""
    found = sorted(p for p in root.iterdir() if (p / "dataset.json").exists()) if root.is_dir() else []
    if not found:
        raise ConfigError(
            f"data: {root} holds no folder with a dataset.json. Give the folder of your data set folders with --data."
        )
    return found


def query_cases(dataset: CachedDataset, number: int) -> list[str]:
    """Return the fixed query cases of a data set: the same for every organ, number of shots, draw and method."""
    patients = sorted({c.patient for c in dataset.cases})
    order = np.random.default_rng(20).permutation(len(patients))
    chosen = {patients[i] for i in order[:number]}
    return sorted(c.name for c in dataset.cases if c.patient in chosen)[:number]


def other_patients(dataset: CachedDataset, names: Iterable[str]) -> list[str]:
    """Return the cases of all patients that have none of the cases ``names``, in the order of the data set."""
    patient = {c.name: c.patient for c in dataset.cases}
    used = {patient[n] for n in names}
    return [c.name for c in dataset.cases if c.patient not in used]


def without_patients_of(dataset: CachedDataset, names: Iterable[str]) -> CachedDataset:
    """Return the data set without the patients of the cases ``names``."""
    left = set(other_patients(dataset, names))
    pool = CachedDataset(dataset.path, dataset.meta)
    pool.cases = tuple(c for c in dataset.cases if c.name in left)
    return pool


def support_cases(dataset: CachedDataset, task: OrganTask, shots: int, draw: int, query: Sequence[str]) -> list[str]:
    """Return the support of a draw, from patients outside ``query``: the same for every method and number of steps."""
    return choose_support(without_patients_of(dataset, query), task, shots, 100 + draw)[0]


def hash_names(names: Sequence[str]) -> str:
    """Return a short hash of case names: it can be checked which cases they were, but not read."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


@lru_cache(maxsize=8)
def open_prepared(path: str) -> CachedDataset:
    """Return a prepared data set, which this process keeps open."""
    return open_cache(path)


@lru_cache(maxsize=4)
def open_run(folder: str) -> MetaRun:
    """Return a meta-trained run, which this process keeps in memory."""
    return MetaRun.load(folder)
