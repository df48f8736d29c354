"""The task distribution: which organ tasks train, validate or are held out, and how episodes are drawn from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.cache import CachedDataset
from ..data.cards import Distribution, held_out_datasets, load_cards, load_distribution
from ..data.settings import PlanSettings
from ..errors import DataError, suggest
from .episode import Episode, draw_split, make_episode, recast_episode, synthetic_episode
from .organ import OrganTask, held_labels, is_held, tasks_of
from .settings import TaskSettings

log = logging.getLogger(__name__)

#: a group with this many patients is drawn as often as any larger group
ENOUGH_PATIENTS = 4


@dataclass(frozen=True)
class TaskDistribution:
    """Organ tasks of cached data sets; a task is drawn by group, then data set, then organ.

    Data sets and organs are drawn uniformly, and so are groups with at least ``ENOUGH_PATIENTS`` patients: many scans or
    labels give no extra weight. A smaller group is drawn in proportion to its patients (those of its largest data set): a
    task that learns from one scan and is evaluated on the same scan rewards memorising it.
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
    training_sets: tuple[str, ...] = ()  #: data sets that are neither held out nor used for validation, regardless of labels

    def draw(
        self, generator: np.random.Generator, tasks: tuple[OrganTask, ...] | None = None, shots: int | None = None
    ) -> Episode:
        """Return a random episode of ``tasks``; by default of the training tasks, without query scans, as training needs none.

        A share of the training episodes is synthetic, and a share of the others is recast (see ``data/synthetic.py``).
        """
        if tasks is not None:
            return self.load(*self.choose(generator, tasks, shots))
        if self.synthetic and generator.random() < self.synthetic:
            number = shots if shots is not None else self.shots[int(generator.integers(len(self.shots)))]
            return synthetic_episode(generator, number, self.plan, self.levels)
        episode = self.load(*self.choose(generator, None, shots, num_query=0))
        if self.recast and generator.random() < self.recast:
            return recast_episode(episode, generator, self.levels, self.plan.thick_stride)
        return episode

    def choose(
        self,
        generator: np.random.Generator,
        tasks: tuple[OrganTask, ...] | None = None,
        shots: int | None = None,
        num_query: int | None = None,
    ) -> tuple[OrganTask, list[str], list[str]]:
        """Return a random task and the names of its support and query cases, without reading voxels.

        ``num_query`` is that of the settings by default.
        """
        pool = self.train if tasks is None else tasks
        groups: dict[str, dict[str, list[OrganTask]]] = {}
        for task in pool:
            groups.setdefault(self.datasets[task.dataset].group, {}).setdefault(task.dataset, []).append(task)
        group = _pick({name: max(self._patients[d] for d in sets) for name, sets in groups.items()}, generator)
        choice = groups[group][_pick(dict.fromkeys(groups[group], 1), generator)]
        task = choice[int(generator.integers(len(choice)))]
        number = shots if shots is not None else self.shots[int(generator.integers(len(self.shots)))]
        num_query = self.num_query if num_query is None else num_query
        return task, *draw_split(self.datasets[task.dataset], task, number, num_query, generator)

    @cached_property
    def _patients(self) -> dict[str, int]:
        return {name: min(len({c.patient for c in d.cases}), ENOUGH_PATIENTS) for name, d in self.datasets.items()}

    def load(self, task: OrganTask, support: Sequence[str], query: Sequence[str]) -> Episode:
        """Return the episode of the named cases."""
        return make_episode(self.datasets[task.dataset], task, support, query, self.plan, self.levels)


def _pick(weights: Mapping[str, int], generator: np.random.Generator) -> str:
    """Return a name, drawn in proportion to its weight."""
    names = sorted(weights)
    places = np.cumsum([weights[name] for name in names])
    return names[int(np.searchsorted(places, generator.integers(places[-1]), side="right"))]


def _check_names(named: Distribution, datasets: Mapping[str, CachedDataset]) -> None:
    """Raise DataError for an unknown name under hold_out or validation: with a typing error, that data set would be trained on.

    A distribution may name data sets that are not cached here, so names in cards are known, too.
    """
    cards = load_cards().values()
    known = {name for d in datasets.values() for name in (d.name, d.group, *d.related)}
    known |= {name for card in cards for name in (card.dataset, card.group, *card.related)}
    for kind, names in (("hold_out", named.hold_out), ("validation", named.validation)):
        for name in names:
            if name not in known:
                raise DataError(
                    f"{kind} of the distribution names {name!r}, which matches no cached data set and no card; "
                    f"{suggest(name, known)}"
                )


def build_distribution(
    datasets: Mapping[str, CachedDataset], settings: TaskSettings, plan: PlanSettings, levels: int, labelled: bool = True
) -> TaskDistribution:
    """Return the distribution that ``settings`` describes over the cached ``datasets``.

    Data sets related to held-out groups are held out, too. Without ``labelled`` there are no tasks, only ``training_sets``,
    and labels are ignored. Raises DataError for an unknown name or if nothing is left.
    """
    named = load_distribution(settings.distribution) if settings.distribution else None
    hold = (*(named.hold_out if named else ()), *settings.hold_out)
    groups = {d.group for d in datasets.values()}
    for name in settings.hold_out:
        if name not in groups | set(datasets):
            raise DataError(
                f"tasks.hold_out names {name!r}, which matches no cached data set; {suggest(name, groups | set(datasets))}"
            )
    for name in settings.validation:
        if name not in datasets:
            raise DataError(f"tasks.validation names {name!r}, which is not cached; {suggest(name, datasets)}")
    if named:
        _check_names(named, datasets)
    validating = set(settings.validation) | set(named.validation if named else ())
    chosen = dict(datasets)
    if named and named.datasets != "all":
        chosen = {n: d for n, d in datasets.items() if n in named.datasets or n in validating}
    out = held_out_datasets(hold, [(d.name, d.group, d.related) for d in datasets.values()])
    if both := sorted(validating & out & set(datasets)):
        raise DataError(f"{both[0]} is listed both for validation and as held out. Remove it from one of the lists.")
    train, validation = [], []
    training_sets = sorted(set(chosen) - out - validating)
    for name in sorted(set(chosen) - out) if labelled else ():
        tasks = tasks_of(name, held_labels(chosen[name]), settings.unions)
        tasks = [task for task in tasks if any(is_held(chosen[name], task))]  # of a union, no scan may annotate all parts
        (validation if name in validating else train).extend(tasks)
    if not (train if labelled else training_sets):
        raise DataError(
            f"no task is left to train on: cached {sorted(datasets)}, held out {sorted(out)}. Prepare more data sets."
        )
    _warn_of_copies(datasets, training_sets, sorted(out & set(datasets)), sorted(validating & set(datasets)))
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


def _warn_of_copies(
    datasets: Mapping[str, CachedDataset], training: Sequence[str], held_out: Sequence[str], validation: Sequence[str]
) -> None:
    """Warn about scans of held-out and validation data sets that training draws as well, under the name of another data set."""
    if not held_out and not validation:
        return
    owner = {case.content_hash: name for name in training for case in datasets[name].cases}
    for names, role in ((held_out, "is held out"), (validation, "is for validation")):
        for name in names:
            copied = [owner[case.content_hash] for case in datasets[name].cases if case.content_hash in owner]
            if copied:
                log.warning(
                    "%d scan(s) of %s, which %s, hold the same voxels as training scans of %s: the model sees them in training",
                    len(copied),
                    name,
                    role,
                    ", ".join(sorted(set(copied))),
                )
