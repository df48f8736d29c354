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
from ..ignored import IGNORED
from .organ import OrganTask, organ_is_absent, organ_map


@dataclass(frozen=True)
class QueryScan:
    """A query scan: planned image (C, X, Y, Z), and the organ map (X, Y, Z) uint8 in canonical axes and native spacing (mm)."""

    name: str
    image: torch.Tensor
    truth: np.ndarray
    spacing: tuple[float, float, float]
    missing: tuple[int, ...] = ()  #: organs that are not annotated in this scan: it cannot score them


@dataclass(frozen=True)
class Episode:
    task: OrganTask
    plan: Plan
    support: tuple[Volume, ...]
    query: tuple[QueryScan, ...] = field(default=())
    lasting: bool = True  #: False for a synthetic or recast task, which is used only once

    @property
    def num_channels(self) -> int:
        return len(self.plan.intensities)


def draw_split(
    dataset: CachedDataset, task: OrganTask, shots: int, num_query: int, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Return the names of support and query cases, all of different patients.

    If possible, every support scan shows every organ of the task.
    All patients are shuffled, and those who show the organs are taken in this order. If there are enough of them, the support
    does not depend on the labels of any patient after its last one. A data set with fewer than three such patients gives no
    query. A scan shows an organ only if it is annotated there. Raises DataError if no scan shows the organs.
    """
    if shots < 1:
        raise DataError(f"{task.key}: {shots} shots were asked for, expected at least one")
    held = {c.name: task.held_by(c) for c in dataset.cases}
    holds = {name: all(organs) for name, organs in held.items()}
    patients: dict[str, list[str]] = {case.patient: [] for case in dataset.cases}
    for case in dataset.cases:
        if any(held[case.name]):
            patients[case.patient].append(case.name)
    if not any(patients.values()):
        raise organ_is_absent(task.key, dataset, [v for values in task.organs for v in values])
    names = sorted(patients)
    # all patients are shuffled: if only those with the organ were, a label of a query scan could change every draw
    order = [name for i in generator.permutation(len(names)) if patients[name := names[i]]]
    order.sort(key=lambda p: not any(holds[n] for n in patients[p]))  # a stable sort: patients with all organs first
    num_query = min(num_query, max(0, len(order) - 1)) if len(order) >= 3 else 0
    take = min(shots, len(order) - num_query)

    def one(patient: str) -> str:
        scans = sorted(patients[patient], key=lambda n: (not holds[n], n))
        best = [n for n in scans if holds[n] == holds[scans[0]]]
        return best[int(generator.integers(len(best)))]

    return [one(p) for p in order[:take]], [one(p) for p in order[take : take + num_query]]


def check_patients(dataset: CachedDataset, support: Sequence[str], query: Sequence[str]) -> None:
    """Raise DataError if a patient has cases in both ``support`` and ``query`` (case names)."""
    patient = {c.name: c.patient for c in dataset.cases}
    shared = {patient[n] for n in support} & {patient[n] for n in query}
    if shared:
        raise DataError(f"{dataset.name}: {len(shared)} patient(s) are in both support and query. Split by patient.")


def make_episode(
    dataset: CachedDataset,
    task: OrganTask,
    support: Sequence[str],
    query: Sequence[str],
    settings: PlanSettings,
    levels: int,
) -> Episode:
    """Return the episode of the named cases; the plan is fitted to the support scans alone.

    Raises DataError if a patient is on both sides, or if a scan does not fit in memory at the plan's spacing.
    """
    check_patients(dataset, support, query)
    cases = {c.name: c for c in dataset.cases}
    images = [dataset.lazy_image(n) for n in support]  # ten scans of 512 x 512 x 450 voxels would not fit in memory at once
    missing = [task.missing_in(cases[n]) for n in support]
    labels = [organ_map(dataset, task, n, organs) for n, organs in zip(support, missing, strict=True)]
    spacings = [cases[n].spacing for n in support]
    plan = fit_plan(
        images,
        [np.where(label == IGNORED, np.uint8(0), label) if dataset.ignore is not None else label for label in labels],
        spacings,
        dataset.modality,
        view_voxels=settings.view_voxels,
        margin=settings.margin,
        levels=levels,
        thickness=settings.thickness,
        ratio=settings.ratio,
        thick_stride=settings.thick_stride,
    )
    volumes = tuple(
        Volume(n, _planned_image(dataset, n, s, plan), plan.apply_label(lab, s, task.num_organs), organs)
        for n, lab, s, organs in zip(support, labels, spacings, missing, strict=True)
    )
    if settings.drop_small:
        plan = replace(plan, in_one_piece=in_one_piece([v.label.numpy() for v in volumes], task.num_organs))
    scans = tuple(query_scan(dataset, task, n, plan) for n in query)
    return Episode(task, plan, volumes, scans)


def query_scan(dataset: CachedDataset, task: OrganTask, name: str, plan: Plan) -> QueryScan:
    """Return one query scan of ``dataset`` under ``plan``; raises DataError if it does not fit in memory."""
    case = next(c for c in dataset.cases if c.name == name)
    x, y, z = (float(s) for s in case.spacing)
    image, missing = _planned_image(dataset, name, case.spacing, plan), task.missing_in(case)
    return QueryScan(name, image, organ_map(dataset, task, name, missing), (x, y, z), missing)


def _planned_image(dataset: CachedDataset, name: str, spacing: Sequence[float], plan: Plan) -> torch.Tensor:
    """Return a scan under ``plan``; raises DataError if it would not fit in memory together with the resampling of its label."""
    image = dataset.lazy_image(name)
    if problem := plan.too_large(image.shape[1:], spacing, 4 * (image.shape[0] + 3)):
        raise DataError(f"{dataset.name}, {name}: {problem}")
    return plan.apply_image(image, spacing)


def synthetic_episode(generator: np.random.Generator, shots: int, settings: PlanSettings, levels: int) -> Episode:
    """Return an episode of a synthetic task, without a query; its scans have the size of the view."""
    scans, num_organs, spacing = synthetic_scans(generator, shots, settings.view_voxels)
    x, y, z = scans[0].label.shape
    names = tuple(f"shape {k}" for k in range(1, num_organs + 1))
    task = OrganTask("synthetic", names, tuple((k,) for k in range(1, num_organs + 1)))
    strides = stride_schedule((x, y, z), spacing, levels, settings.thick_stride)
    return Episode(task, Plan((0, 1, 2), spacing, (x, y, z), strides, (Intensity("robust"),)), scans, lasting=False)


def recast_episode(episode: Episode, generator: np.random.Generator, levels: int, thick_stride: int = 0) -> Episode:
    """Return an episode without a query whose support scans all got the same new intensity curve and the same flips.

    The first two axes are exchanged only if the plan treats them alike.
    """
    plan = episode.plan
    swap = abs(plan.spacing[0] - plan.spacing[1]) < 1e-3
    support, swapped = recast(episode.support, generator, swap)
    if swapped:
        view = (plan.view[1], plan.view[0], plan.view[2])
        plan = replace(plan, view=view, strides=stride_schedule(view, plan.spacing, levels, thick_stride))
    return Episode(episode.task, plan, support, lasting=False)
