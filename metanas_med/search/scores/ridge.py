"""Ridge: a closed-form head on the features as they are, judged on the scan that it was not solved on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...learner import Context, Task
from ...learner.episode import BatchLike
from ...learner.head import VoxelSample, closed_form_rows, complete_classes, sample_voxels
from ...learner.losses import batch_loss, mean_dice, segmentation_loss
from ...learner.support import AUGMENTED_FOLDS
from ...space.network import SegmentationNet, sample_features
from .base import ScoreSettings, register_score
from .loso import unannotated
from .probe import check_finite, mean_of, started, torch_generator
from .subset import left_out


class RidgeSettings(ScoreSettings):
    """A head in closed form, without the scan that judges it."""

    name: str = "ridge"
    voxels: int = Field(default=3000, ge=16)  #: voxels of a scan that rows are solved on
    judge: Literal["dice", "loss"] = "dice"  #: Dice, or minus the training loss, of the scan left out
    groups: tuple[int, ...] = ()  #: the patient of each scan; scans of one patient are left out together; empty: all differ


@dataclass(frozen=True)
class Seen:
    """A batch of one scan, the decoder features of its entries (finest first), and its sampled voxels.

    ``sample`` has no background where organs are not annotated, because it may show them; ``full`` has, for want of other scans.
    """

    batch: BatchLike
    features: list[Tensor]
    sample: VoxelSample
    full: VoxelSample

    @property
    def whole(self) -> bool:
        """Whether all organs are annotated."""
        return not any(self.batch.missing)


@register_score(
    "ridge",
    settings=RidgeSettings,
    source="Bertinetto et al. 2019, arXiv 1805.08136, equation 6, on voxels; a scan left out",
    needs="untrained or meta-learned weights, labels; no step is taken",
    costs="one forward pass of the views of each scan, whose decoder features are kept, and a solve for each scan",
)
class Ridge:
    """Dice of scans that were left out of a closed-form head, without a gradient step.

    Rows, their ridge strength, scale and biases come from the other scans alone, as at the start of ``adapt``. With a single other
    scan, three augmented batches of it are added. A single scan, or the scans of a single patient, are judged batch by batch on such
    augmented patches, which is optimistic.

    Cost: one forward pass a view (six more patches for each single scan), and for each scan four solves of F unknowns for each other
    scan, F features of the head. Memory: the decoder features of all views.
    """

    def __init__(self, settings: RidgeSettings) -> None:
        self.settings = settings

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the mean over scans. Raises NonFiniteLossError if the features are not finite."""
        return mean_of(self.by_scan(net, task, context))

    @torch.no_grad()
    def by_scan(self, net: SegmentationNet, task: Task, context: Context) -> list[float]:
        """Return the Dice, or minus the loss, of each scan when it was left out; of a single patient, of augmented batches."""
        probe, every = started(net, task), list(range(task.num_scans))
        rng = torch_generator(context.generator)
        folds = left_out(task.num_scans, 0, self.settings.groups, context.generator)
        seen = [self._look(probe, task, task.support.views(scan), rng, context) for scan in every]
        if not folds:
            extra = self._augmented(probe, task, every, rng, context)
            return [self._judge(probe, task, [*seen, *extra[:i], *extra[i + 1 :]], own, context) for i, own in enumerate(extra)]
        found = [float("nan")] * task.num_scans
        for scans in folds:
            others = [i for i in every if i not in scans]
            known = [i for i in others if seen[i].whole]
            single = next((part for part in (others, known) if len(part) == 1), [])
            extra = self._augmented(probe, task, single, rng, context) if single else []
            for scan in scans:
                found[scan] = self._judge(probe, task, [*(seen[i] for i in others), *extra], seen[scan], context)
        return found

    def _augmented(
        self, net: SegmentationNet, task: Task, scans: Sequence[int], rng: torch.Generator, context: Context
    ) -> list[Seen]:
        """Return what the network sees of augmented batches of two patches, each of one of ``scans``."""
        requests = [(2, (scans[i % len(scans)],)) for i in range(max(AUGMENTED_FOLDS, len(scans)))]
        return [self._look(net, task, batch, rng, context) for batch in task.support.stream(requests)]

    def _look(self, net: SegmentationNet, task: Task, batch: BatchLike, rng: torch.Generator, context: Context) -> Seen:
        """Return what the network sees of a batch of one scan."""
        with context.runtime.autocast():
            features = net.features(context.runtime.place(batch.images), task.strides)
        whole = not any(batch.missing)
        sample = self._sample(net, batch, features, whole, rng)
        return Seen(batch, features, sample, sample if whole else self._sample(net, batch, features, True, rng))

    def _sample(
        self, net: SegmentationNet, batch: BatchLike, features: list[Tensor], background: bool, rng: torch.Generator
    ) -> VoxelSample:
        """Return head features of about ``voxels`` voxels of a batch."""
        parts, device = [], features[0].device
        for i, labels in enumerate(batch.labels):
            where, weights = sample_voxels(labels, self.settings.voxels // len(batch.labels), rng, background)
            own = [feature[i : i + 1] for feature in features]
            x = sample_features(own, batch.coords[i : i + 1].to(device), where.to(device), labels.shape)
            parts.append(VoxelSample(net.head.pad(x, [f.shape[1] for f in features]).cpu(), labels[tuple(where.T)], weights))
        columns = zip(*((part.features, part.labels, part.weights) for part in parts), strict=True)
        return VoxelSample(*(torch.cat(column) for column in columns))

    def _judge(self, net: SegmentationNet, task: Task, fit: Sequence[Seen], own: Seen, context: Context) -> float:
        """Return the value of one batch under rows that were solved on the batches of ``fit``."""
        if unannotated(own.batch, task.num_organs):
            return float("nan")
        missing = [part.batch.missing[0] if part.batch.missing else () for part in fit]
        whole = any(part.whole for part in fit)
        samples = complete_classes([part.sample if whole else part.full for part in fit], missing, task.num_organs)
        rows, _ = closed_form_rows([sample for sample in samples if len(sample.labels)], task.num_organs)
        check_finite([float(rows.abs().sum())], "the closed-form rows")
        base = net.head.rows(torch.zeros_like(net.task["rows"]))
        coords = own.batch.coords.to(base.device)
        logits = net.head(own.features, coords, rows.to(base) - base)
        labels = own.batch.labels.to(base.device)
        if self.settings.judge == "dice":
            return mean_dice(logits, labels, own.batch.missing)
        return -float(batch_loss(segmentation_loss(), logits, labels, own.batch.missing))
