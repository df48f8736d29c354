"""The support of a task: how it is split, how head rows start from it, and the Dice on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..config import LearnerSettings
from ..space.network import SegmentationNet, sample_features
from .episode import BatchLike, NonFiniteLossError, Task
from .head import VoxelSample, closed_form_rows, sample_voxels
from .losses import mean_dice
from .runtime import Runtime

AUGMENTED_FOLDS = 3  #: batches that judge the closed-form rows of a single scan


@dataclass(frozen=True)
class Halves:
    """Which scans train the weights of each copy, and which its alpha is judged on."""

    train: tuple[tuple[int, ...], ...]
    other: tuple[tuple[int, ...], ...]
    cross: bool
    kind: str


def split_scans(num_scans: int, settings: LearnerSettings, generator: np.random.Generator) -> Halves:
    """Return the split of the support between weights and alphas.

    Single-level: all scans, and alphas need none of their own. Else of four scans and more: two fixed halves, cross-fitted, or a single
    split that leaves ``alpha_share`` of them to the alphas. Fewer: all scans on both sides, through different patches and
    augmentations; the report then says so.
    """
    everything = tuple(range(num_scans))
    if not settings.bilevel:
        return Halves((everything,), (everything,), False, "none: alphas step with the weights")
    if num_scans < 4:
        return Halves((everything,), (everything,), False, "same scans, other patches and augmentations")
    order = [int(i) for i in generator.permutation(num_scans)]
    middle = num_scans // 2 if settings.cross_fit else max(1, int(num_scans * settings.alpha_share))
    first, second = tuple(sorted(order[:middle])), tuple(sorted(order[middle:]))
    if settings.cross_fit:
        return Halves((first, second), (second, first), True, "two halves, cross-fitted")
    return Halves((second,), (first,), False, f"single split, {len(first)} of {num_scans} scans judge alphas")


@torch.no_grad()
def start_head(
    net: SegmentationNet, task: Task, scans: Sequence[int], voxels: int, generator: torch.Generator, runtime: Runtime
) -> float:
    """Set the task's rows of ``net`` by ridge regression on the given support scans; return the ridge strength.

    Raises NonFiniteLossError where features are not finite, before the rows are set.

    Rows of a single scan are judged on, and solved from, ``AUGMENTED_FOLDS`` batches of its augmented patches as well. Cost: a forward
    pass a view (of one scan: six more).
    """
    batches = [task.support.views(scan) for scan in scans]
    if len(batches) == 1:
        # a scan praises rows that were solved on it: patches of it, otherwise placed and augmented, stand for others
        batches += task.support.stream([(2, scans)] * AUGMENTED_FOLDS)
    samples = [_sample(net, task, batch, voxels, generator, runtime) for batch in batches]
    rows, strength = closed_form_rows(samples, task.num_organs)
    if not torch.isfinite(rows).all():  # without a step no loss would tell
        raise NonFiniteLossError("the closed-form rows became infinite or not a number")
    base = net.head.rows(torch.zeros_like(net.task["rows"]))
    net.task["rows"].copy_(rows.to(base.device) - base)
    return strength


def _sample(
    net: SegmentationNet, task: Task, batch: BatchLike, voxels: int, generator: torch.Generator, runtime: Runtime
) -> VoxelSample:
    """Return head features of about ``voxels`` voxels of the patches of a batch."""
    parts = []
    for i in range(batch.images.shape[0]):
        where, weights = sample_voxels(batch.labels[i], voxels // batch.images.shape[0], generator)
        with runtime.autocast():
            features = net.features(runtime.place(batch.images[i : i + 1]), task.strides)
        size = batch.labels.shape[1:]
        x = sample_features(features, batch.coords[i : i + 1].to(runtime.device), where.to(runtime.device), size).cpu()
        parts.append(VoxelSample(net.head.pad(x), batch.labels[i][tuple(where.T)], weights))
    return VoxelSample(
        torch.cat([p.features for p in parts]), torch.cat([p.labels for p in parts]), torch.cat([p.weights for p in parts])
    )


@torch.no_grad()
def support_dice(net: SegmentationNet, task: Task, runtime: Runtime) -> float:
    """Return the mean Dice of ``net`` on the fixed views of all support scans."""
    values = []
    for scan in range(task.num_scans):
        views = task.support.views(scan)
        with runtime.autocast():
            logits = net(runtime.place(views.images), views.coords.to(runtime.device), task.strides)
        values.append(mean_dice(logits, views.labels.to(logits.device)))
    return sum(values) / len(values)
