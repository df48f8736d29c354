"""Episodes: support and query scans of one organ task, split by patient, on the grid of the support's own plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..data.cache import CachedDataset
from ..data.patches import Volume
from ..data.pieces import in_one_piece
from ..data.plan import Intensity, Plan, fit_plan, stride_schedule
from ..data.settings import PlanSettings
from ..data.synthetic import recast, synthetic_scans
from ..errors import DataError
from .organ import OrganTask, organ_is_absent


@dataclass(frozen=True)
class QueryScan:
    """A query scan: planned image (C, X, Y, Z), and the organ map (X, Y, Z) uint8 in canonical axes and native spacing (mm)."""

    name: str
    image: torch.Tensor
    truth: np.ndarray
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Episode:
    task: OrganTask
    plan: Plan
    support: tuple[Volume, ...]
    query: tuple[QueryScan, ...] = field(default=())
    lasting: bool = True  #: the task comes again; a made-up or recast one does not

    @property
    def num_channels(self) -> int:
        return len(self.plan.intensities)


def draw_split(
    dataset: CachedDataset, task: OrganTask, shots: int, num_query: int, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Return support and query case names: different patients, every support scan holding every organ of the task where it can.

    All patients are shuffled, and those that hold the organs are taken in turn: where there are enough of them, whom the support is does not
    hang on the labels of any patient after its last. A data set of fewer than three patients with the organ gives no query. Raises
    DataError when no scan holds the organs.
    """
    if shots < 1:
        raise DataError(f"{task.key}: {shots} shots were asked for, expected at least one")
    wanted = [v for values in task.organs for v in values]
    holds = {c.name: all(any(c.label_voxels.get(v, 0) for v in values) for values in task.organs) for c in dataset.cases}
    patients: dict[str, list[str]] = {case.patient: [] for case in dataset.cases}
    for case in dataset.cases:
        if any(case.label_voxels.get(v, 0) for v in wanted):
            patients[case.patient].append(case.name)
    if not any(patients.values()):
        raise organ_is_absent(task.key, dataset)
    names = sorted(patients)
    # all of them are shuffled, with the organ or without: were it only those with it, a label of a query scan could move every draw
    order = [name for i in generator.permutation(len(names)) if patients[name := names[i]]]
    order.sort(key=lambda p: not any(holds[n] for n in patients[p]))  # stable: patients with all organs first
    num_query = min(num_query, max(0, len(order) - 1)) if len(order) >= 3 else 0
    take = min(shots, len(order) - num_query)

    def one(patient: str) -> str:
        scans = sorted(patients[patient], key=lambda n: (not holds[n], n))
        best = [n for n in scans if holds[n] == holds[scans[0]]]
        return best[int(generator.integers(len(best)))]

    return [one(p) for p in order[:take]], [one(p) for p in order[take : take + num_query]]


def check_patients(dataset: CachedDataset, support: Sequence[str], query: Sequence[str]) -> None:
    """Raise DataError where a patient stands in support and query, both case names."""
    patient = {c.name: c.patient for c in dataset.cases}
    shared = {patient[n] for n in support} & {patient[n] for n in query}
    if shared:
        raise DataError(f"{dataset.name}: {len(shared)} patient(s) in support and query at once. Split by patient.")


def make_episode(
    dataset: CachedDataset,
    task: OrganTask,
    support: Sequence[str],
    query: Sequence[str],
    settings: PlanSettings,
    levels: int,
) -> Episode:
    """Return the episode of named cases; the plan is fitted to the support scans alone.

    Raises DataError when a patient stands on both sides, and where a scan does not fit in memory at the plan's spacing.
    """
    check_patients(dataset, support, query)
    cases = {c.name: c for c in dataset.cases}
    images = [dataset.lazy_image(n) for n in support]  # ten scans of 512 x 512 x 450 voxels would not fit in memory at once
    labels = [task.remap(dataset.label(n)) for n in support]
    spacings = [cases[n].spacing for n in support]
    plan = fit_plan(
        images,
        labels,
        spacings,
        dataset.modality,
        view_voxels=settings.view_voxels,
        margin=settings.margin,
        levels=levels,
        thickness=settings.thickness,
    )
    volumes = tuple(
        Volume(n, _planned_image(dataset, n, s, plan), plan.apply_label(lab, s, task.num_organs))
        for n, lab, s in zip(support, labels, spacings, strict=True)
    )
    if settings.drop_small:
        plan = replace(plan, in_one_piece=in_one_piece([v.label.numpy() for v in volumes], task.num_organs))
    scans = tuple(query_scan(dataset, task, n, plan) for n in query)
    return Episode(task, plan, volumes, scans)


def query_scan(dataset: CachedDataset, task: OrganTask, name: str, plan: Plan) -> QueryScan:
    """Return one query scan of ``dataset`` under ``plan``; DataError where it does not fit in memory."""
    spacing = next(c.spacing for c in dataset.cases if c.name == name)
    x, y, z = (float(s) for s in spacing)
    return QueryScan(name, _planned_image(dataset, name, spacing, plan), task.remap(dataset.label(name)), (x, y, z))


def _planned_image(dataset: CachedDataset, name: str, spacing: Sequence[float], plan: Plan) -> torch.Tensor:
    """Return a scan under ``plan``; DataError where it would not fit in memory, with its label and what making that takes."""
    image = dataset.lazy_image(name)
    if told := plan.too_large(image.shape[1:], spacing, 4 * (image.shape[0] + 3)):
        raise DataError(f"{dataset.name}, {name}: {told}")
    return plan.apply_image(image, spacing)


def synthetic_episode(generator: np.random.Generator, shots: int, view_voxels: int, levels: int) -> Episode:
    """Return an episode of a made-up task, whose scans are as large as their view; it has no query."""
    scans, num_organs, spacing = synthetic_scans(generator, shots, view_voxels)
    x, y, z = scans[0].label.shape
    names = tuple(f"shape {k}" for k in range(1, num_organs + 1))
    task = OrganTask("synthetic", names, tuple((k,) for k in range(1, num_organs + 1)))
    strides = stride_schedule((x, y, z), spacing, levels)
    return Episode(task, Plan((0, 1, 2), spacing, (x, y, z), strides, (Intensity("robust"),)), scans, lasting=False)


def recast_episode(episode: Episode, generator: np.random.Generator, levels: int) -> Episode:
    """Return an episode whose support has one new intensity curve and the same flips in all scans; without the query.

    The first two axes change places only where the plan treats them alike.
    """
    plan = episode.plan
    swap = abs(plan.spacing[0] - plan.spacing[1]) < 1e-3
    support, swapped = recast(episode.support, generator, swap)
    if swapped:
        view = (plan.view[1], plan.view[0], plan.view[2])
        plan = replace(plan, view=view, strides=stride_schedule(view, plan.spacing, levels))
    return Episode(episode.task, plan, support, lasting=False)
