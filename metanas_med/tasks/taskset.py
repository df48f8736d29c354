"""The task distribution as a learn2learn ``Taskset``: samples are the scans of every organ task, tasks are episodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..l2l import import_learn2learn
from .distribution import TaskDistribution
from .episode import Episode
from .organ import OrganTask

_STREAM = 5  #: key in the seed tree; it only has to differ from the other keys


@dataclass(frozen=True)
class Scan:
    """One sample: the name of a scan as an example of one organ task."""

    task: OrganTask
    case: str


class OrganScans(Dataset[tuple[Scan, str]]):
    """Every scan of every organ task that shows one of its organs: (scan, task key); voxels are not read."""

    def __init__(self, distribution: TaskDistribution, tasks: Sequence[OrganTask]) -> None:
        self.scans: list[Scan] = []
        for task in tasks:
            cases = distribution.datasets[task.dataset].cases
            self.scans += [Scan(task, c.name) for c in cases if any(task.held_by(c))]

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, number: int) -> tuple[Scan, str]:
        scan = self.scans[number]
        return scan, scan.task.key


def episode_taskset(
    distribution: TaskDistribution, num_tasks: int, seed: int, tasks: Sequence[OrganTask] | None = None, shots: int | None = None
) -> Any:
    """Return a ``learn2learn.data.Taskset`` of ``num_tasks`` episodes; item ``i`` depends only on ``seed`` and ``i``.

    Draws are those of ``distribution.choose``: by group, data set and organ, with support and query split by patient. Names
    are drawn here, voxels are read on access to an item. Labels of the MetaDataset are task keys. Raises UserError if
    learn2learn is missing.
    """
    data = import_learn2learn().data
    samples = OrganScans(distribution, distribution.train if tasks is None else tasks)
    labels = {number: scan.task.key for number, scan in enumerate(samples.scans)}
    dataset = data.MetaDataset(samples, indices_to_labels=labels)
    index = {scan: number for number, scan in enumerate(samples.scans)}
    pool = None if tasks is None else tuple(tasks)
    numbers = itertools.count()

    def draw(_: Any) -> list[Any]:
        generator = np.random.default_rng([seed, _STREAM, next(numbers)])
        task, support, query = distribution.choose(generator, pool, shots)
        found = []
        for role, cases in (("support", support), ("query", query)):
            for case in cases:
                entry = data.DataDescription(index[Scan(task, case)])
                entry.transforms += [dataset.__getitem__, partial(_with_role, role)]
                found.append(entry)
        return found

    def load(parts: Sequence[tuple[str, Scan]]) -> Episode:
        support, query = ([scan.case for role, scan in parts if role == wanted] for wanted in ("support", "query"))
        return distribution.load(parts[0][1].task, support, query)

    taskset = data.Taskset(dataset, [draw], num_tasks, load)
    for number in range(num_tasks):  # learn2learn draws at the first access: without this, draws would depend on the access order
        taskset.sampled_descriptions[number] = taskset.sample_task_description()
    return taskset


def _with_role(role: str, sample: tuple[Scan, str]) -> tuple[str, Scan]:
    return role, sample[0]
