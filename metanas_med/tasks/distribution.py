"""The task distribution: which organ tasks train, which validate, which are held out; and draws of episodes from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import PlanSettings, TaskSettings
from ..data.cache import CachedDataset
from ..data.cards import held_out_datasets, load_distribution
from ..errors import DataError, suggest
from .episode import Episode, draw_split, make_episode, recast_episode, synthetic_episode
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
    synthetic: float = 0.0
    recast: float = 0.0
    training_sets: tuple[str, ...] = ()  #: data sets that are neither held out nor validating, whatever their labels

    def draw(
        self, generator: np.random.Generator, tasks: tuple[OrganTask, ...] | None = None, shots: int | None = None
    ) -> Episode:
        """Return a random episode of the training tasks (or of ``tasks``).

        In training, a share of them is made up, and a share of the others recast (see ``data/synthetic.py``).
        """
        if tasks is not None or not (self.synthetic or self.recast):
            return self.load(*self.choose(generator, tasks, shots))
        if generator.random() < self.synthetic:
            number = shots if shots is not None else self.shots[int(generator.integers(len(self.shots)))]
            return synthetic_episode(generator, number, self.plan.view_voxels, self.levels)
        episode = self.load(*self.choose(generator, tasks, shots))
        return recast_episode(episode, generator, self.levels) if generator.random() < self.recast else episode

    def choose(
        self, generator: np.random.Generator, tasks: tuple[OrganTask, ...] | None = None, shots: int | None = None
    ) -> tuple[OrganTask, list[str], list[str]]:
        """Return a random task, and the names of its support and query cases; no voxel is read."""
        pool = self.train if tasks is None else tasks
        groups: dict[str, dict[str, list[OrganTask]]] = {}
        for task in pool:
            groups.setdefault(self.datasets[task.dataset].group, {}).setdefault(task.dataset, []).append(task)
        group = _pick(list(groups), generator)
        choice = groups[group][_pick(list(groups[group]), generator)]
        task = choice[int(generator.integers(len(choice)))]
        number = shots if shots is not None else self.shots[int(generator.integers(len(self.shots)))]
        return task, *draw_split(self.datasets[task.dataset], task, number, self.num_query, generator)

    def load(self, task: OrganTask, support: Sequence[str], query: Sequence[str]) -> Episode:
        """Return the episode of named cases."""
        return make_episode(self.datasets[task.dataset], task, support, query, self.plan, self.levels)


def _pick(names: list[str], generator: np.random.Generator) -> str:
    return sorted(names)[int(generator.integers(len(names)))]


def build_distribution(
    datasets: Mapping[str, CachedDataset], settings: TaskSettings, plan: PlanSettings, levels: int, labelled: bool = True
) -> TaskDistribution:
    """Return the distribution that ``settings`` describes over the cached ``datasets``.

    Held-out groups take every related data set with them. Without ``labelled`` there are no tasks, only ``training_sets``, and no label's
    count is looked at. Raises DataError for an unknown name or when nothing is left.
    """
    named = load_distribution(settings.distribution) if settings.distribution else None
    hold = (*(named.hold_out if named else ()), *settings.hold_out)
    groups = {d.group for d in datasets.values()}
    for name in settings.hold_out:
        if name not in groups | set(datasets):
            raise DataError(
                f"tasks.hold_out names {name!r}, which no cached data set has; {suggest(name, groups | set(datasets))}"
            )
    for name in settings.validation:
        if name not in datasets:
            raise DataError(f"tasks.validation names {name!r}, which is not cached; {suggest(name, datasets)}")
    chosen = dict(datasets)
    if named and named.datasets != "all":
        chosen = {n: d for n, d in datasets.items() if n in named.datasets}
    out = held_out_datasets(hold, [(d.name, d.group, d.related) for d in datasets.values()])
    validating = set(settings.validation) | set(named.validation if named else ())
    train, validation = [], []
    training_sets = sorted(set(chosen) - out - validating)
    for name in sorted(set(chosen) - out) if labelled else ():
        dataset = chosen[name]
        seen = {v for c in dataset.cases for v, n in c.label_voxels.items() if n}
        labels = {v: organ for v, organ in dataset.labels.items() if v in seen}
        tasks = tasks_of(name, labels, settings.unions)
        (validation if name in validating else train).extend(tasks)
    if not (train if labelled else training_sets):
        raise DataError(
            f"no task is left to train on: cached {sorted(datasets)}, held out {sorted(out)}. Prepare more data sets."
        )
    return TaskDistribution(
        datasets,
        tuple(train),
        tuple(validation),
        tuple(sorted(out)),
        plan,
        settings.shots,
        settings.num_query,
        levels,
        settings.synthetic,
        settings.recast,
        tuple(training_sets),
    )
