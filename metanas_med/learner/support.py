"""The support of a task: initial head rows from it, and the Dice on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..space.network import SegmentationNet, sample_features
from .episode import BatchLike, NonFiniteLossError, Task
from .head import VoxelSample, closed_form_rows, sample_voxels
from .losses import mean_dice
from .runtime import Runtime

AUGMENTED_FOLDS = 3  #: batches that judge the closed-form rows of a single scan


@torch.no_grad()
def start_head(
    net: SegmentationNet, task: Task, scans: Sequence[int], voxels: int, generator: torch.Generator, runtime: Runtime
) -> float:
    """Set the task's rows of ``net`` by ridge regression on the given support scans; return the ridge strength.

    Raises NonFiniteLossError if features are not finite, before the rows are set.

    A single scan is supplemented by ``AUGMENTED_FOLDS`` batches of its augmented patches, which also judge its rows.
    Cost: one forward pass per view (six more for a single scan).
    """
    batches = [task.support.views(scan) for scan in scans]
    if len(batches) == 1:
        # rows look too good on the scan they were solved on; other, augmented patches of it replace further scans
        batches += task.support.stream([(2, scans)] * AUGMENTED_FOLDS)
    samples = [_sample(net, task, batch, voxels, generator, runtime) for batch in batches]
    rows, strength = closed_form_rows(samples, task.num_organs)
    if not torch.isfinite(rows).all():  # with zero steps, no loss would reveal it
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
