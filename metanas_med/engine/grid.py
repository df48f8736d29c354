"""What all grids of adaptations share: the drawn cases, one JSON file a cell, processes that work through cells."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data.cached import CachedDataset, open_cache
from ..tasks.organ import OrganTask
from .adapt import MetaRun, choose_support

JobT = TypeVar("JobT")


def query_cases(dataset: CachedDataset, number: int) -> list[str]:
    """Return the fixed query cases of a data set: the same for every organ, shot, draw and method."""
    patients = sorted({c.patient for c in dataset.cases})
    order = np.random.default_rng(20).permutation(len(patients))
    chosen = {patients[i] for i in order[:number]}
    return sorted(c.name for c in dataset.cases if c.patient in chosen)[:number]


def support_cases(dataset: CachedDataset, task: OrganTask, shots: int, draw: int, query: Sequence[str]) -> list[str]:
    """Return the support of a draw: the same for every method and number of steps, from patients outside the query list."""
    patient = {c.name: c.patient for c in dataset.cases}
    used = {patient[n] for n in query}
    pool = CachedDataset(dataset.path, dataset.meta)
    pool.cases = tuple(c for c in dataset.cases if c.patient not in used)
    return choose_support(pool, task, shots, 100 + draw)[0]


def hash_names(names: Sequence[str]) -> str:
    """Return a short hash of case names: which cases they were can be checked, not read."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


def work_through(pool: ProcessPoolExecutor, job: Callable[[JobT], None], jobs: Sequence[JobT]) -> None:
    """Run ``job`` on each of ``jobs``, handed out in order; an error of one is raised once those before it are done."""
    list(pool.map(job, jobs, chunksize=1))


def processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes: forking one that has run torch can hang."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def read_cells(folder: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is written of the cells' ``files`` in ``folder``, in their order."""
    return [json.loads((folder / name).read_text()) for name in files if (folder / name).exists()]


@lru_cache(maxsize=4)
def open_run(folder: str) -> MetaRun:
    """Return a meta-trained run, kept in memory by the process."""
    return MetaRun.load(folder)


@lru_cache(maxsize=8)
def open_prepared(path: str) -> CachedDataset:
    """Return a prepared data set, kept open by the process."""
    return open_cache(path)
