"""The support of a task: initial head rows from it, and the Dice on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..ignored import IGNORED
from ..space.ensemble import Ensemble
from ..space.network import SegmentationNet, sample_features
from .episode import BatchLike, NonFiniteLossError, Task
from .head import VoxelSample, closed_form_rows, complete_classes, sample_voxels
from .losses import mean_dice, organ_dice
from .runtime import Runtime

AUGMENTED_FOLDS = 3  #: batches that judge the closed-form rows of a single scan


@torch.no_grad()
def start_head(
    net: SegmentationNet, task: Task, scans: Sequence[int], voxels: int, generator: torch.Generator, runtime: Runtime
) -> float:
    """Set the task's rows of ``net`` by ridge regression on the given support scans; return the ridge strength.

    Raises NonFiniteLossError if features are not finite, before the rows are set.

    A single scan is supplemented by ``AUGMENTED_FOLDS`` batches of its augmented patches, which also judge its rows. Scans with
    organs that are not annotated give voxels of their organs only: their background may show the others. If all scans are of
    that kind, their background is used. A single other scan is supplemented like a single scan.
    Cost: one forward pass per view (six more for a single scan).
    """
    batches = [task.support.views(scan) for scan in scans]
    whole = [scan for scan, batch in zip(scans, batches, strict=True) if not any(batch.missing)]
    single = scans if len(batches) == 1 else whole if len(whole) == 1 else ()
    if single:
        # rows look too good on the scan they were solved on; other, augmented patches of it replace further scans
        batches += task.support.stream([(2, single)] * AUGMENTED_FOLDS)
    samples = [_sample(net, task, batch, voxels, generator, runtime, not whole) for batch in batches]
    missing = [batch.missing[0] if batch.missing else () for batch in batches]
    rows, strength = closed_form_rows(
        [s for s in complete_classes(samples, missing, task.num_organs) if len(s.labels)], task.num_organs
    )
    if not torch.isfinite(rows).all():  # with zero steps, no loss would reveal it
        raise NonFiniteLossError("the closed-form rows became infinite or not a number")
    base = net.head.rows(torch.zeros_like(net.task["rows"]))
    net.task["rows"].copy_(rows.to(base.device) - base)
    return strength


def _sample(
    net: SegmentationNet,
    task: Task,
    batch: BatchLike,
    voxels: int,
    generator: torch.Generator,
    runtime: Runtime,
    all_background: bool,
) -> VoxelSample:
    """Return head features of about ``voxels`` voxels of the patches of a batch of one scan.

    The background of a scan with organs that are not annotated is used only with ``all_background``.
    """
    parts = []
    background = all_background or not any(batch.missing)
    for i in range(batch.images.shape[0]):
        where, weights = sample_voxels(batch.labels[i], voxels // batch.images.shape[0], generator, background)
        with runtime.autocast():
            features = net.features(runtime.place(batch.images[i : i + 1]), task.strides)
        size = batch.labels.shape[1:]
        x = sample_features(features, batch.coords[i : i + 1].to(runtime.device), where.to(runtime.device), size).cpu()
        parts.append(VoxelSample(net.head.pad(x, [f.shape[1] for f in features]), batch.labels[i][tuple(where.T)], weights))
    return VoxelSample(
        torch.cat([p.features for p in parts]), torch.cat([p.labels for p in parts]), torch.cat([p.weights for p in parts])
    )


@torch.no_grad()
def dice_by_organ(net: SegmentationNet | Ensemble, task: Task, runtime: Runtime) -> dict[int, float]:
    """Return the mean Dice by organ on the fixed views of the support scans, over the scans that show and annotate it.

    Cost: one forward pass per view.
    """
    found: dict[int, list[float]] = {}
    for scan in range(task.num_scans):
        views = task.support.views(scan)
        shown = set(views.labels.unique().tolist()) - {IGNORED}
        with runtime.autocast():
            logits = net(runtime.place(views.images), views.coords.to(runtime.device), task.strides)
        for organ, value in organ_dice(logits, views.labels.to(logits.device), views.missing).items():
            if organ in shown:
                found.setdefault(organ, []).append(value)
    return {organ: sum(values) / len(values) for organ, values in found.items()}


@torch.no_grad()
def support_dice(net: SegmentationNet, task: Task, runtime: Runtime) -> float:
    """Return the mean Dice of ``net`` on the fixed views of all support scans."""
    values = []
    for scan in range(task.num_scans):
        views = task.support.views(scan)
        with runtime.autocast():
            logits = net(runtime.place(views.images), views.coords.to(runtime.device), task.strides)
        values.append(mean_dice(logits, views.labels.to(logits.device), views.missing))
    return sum(values) / len(values)
