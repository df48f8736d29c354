"""The task distribution: which organ tasks train, which validate, which are held out; and draws of episodes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..config import PlanSettings, TaskSettings
from ..data.cache import CachedDataset
from ..data.cards import held_out_datasets, load_distribution
from ..errors import DataError, suggest
from .episode import Episode, draw_split, make_episode
from .organ import OrganTask, tasks_of


@dataclass(frozen=True)
class TaskDistribution:
    """Organ tasks of cached data sets; a task is drawn by group, then data set, then organ, each uniformly.

    So a data set of many scans or labels does not outweigh the others.
    """

    datasets: Mapping[str, CachedDataset]
    train: tuple[OrganTask, ...]
    validation: tuple[OrganTask, ...]
    held_out: tuple[str, ...]
    plan: PlanSettings
    shots: tuple[int, ...]
    num_query: int
    levels: int

    def draw(self, generator: np.random.Generator, tasks: tuple[OrganTask, ...] | None = None, shots: int | None = None) -> Episode:
        """Return a random episode of the training tasks (or of ``tasks``)."""
        pool = self.train if tasks is None else tasks
        groups: dict[str, dict[str, list[OrganTask]]] = {}
        for task in pool:
            groups.setdefault(self.datasets[task.dataset].group, {}).setdefault(task.dataset, []).append(task)
        group = _pick(list(groups), generator)
        choice = groups[group][_pick(list(groups[group]), generator)]
        task = choice[int(generator.integers(len(choice)))]
        return self.episode(task, generator, shots)

    def episode(self, task: OrganTask, generator: np.random.Generator, shots: int | None = None) -> Episode:
        """Return a random episode of ``task``; the number of shots is drawn too unless given."""
        number = shots if shots is not None else self.shots[int(generator.integers(len(self.shots)))]
        dataset = self.datasets[task.dataset]
        support, query = draw_split(dataset, task, number, self.num_query, generator)
        return make_episode(dataset, task, support, query, self.plan, self.levels)


def _pick(names: list[str], generator: np.random.Generator) -> str:
    return sorted(names)[int(generator.integers(len(names)))]


def build_distribution(
    datasets: Mapping[str, CachedDataset], settings: TaskSettings, plan: PlanSettings, levels: int
) -> TaskDistribution:
    """Return the distribution that ``settings`` describes over the cached ``datasets``.

    Held-out groups take every related data set with them. Raises DataError when nothing is left to train on, or a name is unknown.
    """
    named = load_distribution(settings.distribution) if settings.distribution else None
    hold = (*(named.hold_out if named else ()), *settings.hold_out)
    groups = {d.group for d in datasets.values()}
    for name in settings.hold_out:
        if name not in groups | set(datasets):
            raise DataError(f"tasks.hold_out names {name!r}, which no cached data set has; {suggest(name, groups | set(datasets))}")
    chosen = dict(datasets)
    if named and named.datasets != "all":
        chosen = {n: d for n, d in datasets.items() if n in named.datasets}
    out = held_out_datasets(hold, [(d.name, d.group, d.related) for d in datasets.values()])
    validating = set(settings.validation) | set(named.validation if named else ())
    train, validation = [], []
    for name in sorted(set(chosen) - out):
        dataset = chosen[name]
        seen = {v for c in dataset.cases for v, n in c.label_voxels.items() if n}
        labels = {v: organ for v, organ in dataset.labels.items() if v in seen}
        tasks = tasks_of(name, labels, settings.unions)
        (validation if name in validating else train).extend(tasks)
    if not train:
        raise DataError(f"no task is left to train on: cached {sorted(datasets)}, held out {sorted(out)}. Prepare more data sets.")
    return TaskDistribution(
        datasets, tuple(train), tuple(validation), tuple(sorted(out)), plan, settings.shots, settings.num_query, levels
    )
