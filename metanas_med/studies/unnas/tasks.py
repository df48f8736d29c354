"""What an architecture is trained on: one fixed task, with real or generated labels, and how it is scored.

In meta-training (pretext/source.py) the classes of a pretext task change with every episode. Here its classes, plan and
volume size are drawn once, and only the volumes change. So its head rows can be trained like those of an organ, by the same
learner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...data.cached import CachedDataset
from ...data.patches import Batch, PatchSampler, Volume, coordinates, take_turns
from ...data.plan import stride_schedule
from ...data.prefetch import Prefetcher
from ...errors import DataError
from ...ignored import IGNORED
from ...learner import Runtime, Task
from ...pretext import Pretext, Scan, TooLittleContent, build_pretext
from ...pretext.source import frame_of, planned
from ...space.network import SegmentationNet
from .settings import UnnasSettings

#: draws of a volume after which a scan counts as too empty
_DRAWS = 20
#: the pretext task whose volumes never change: the network can only memorise them
RANDOM_LABELS = "random-labels"


@dataclass(frozen=True)
class PretextTask:
    """A pretext task on the scans of one data set: the task to train, and the volumes to score."""

    task: Task
    train: Sequence[Volume]
    query: Sequence[Volume]


class FreshVolumes:
    """A support that makes new volumes for every batch, from scans in turn."""

    def __init__(
        self, make: Callable[[int, np.random.Generator], Volume], num_scans: int, generator: np.random.Generator
    ) -> None:
        self.make, self.num_scans, self.generator = make, num_scans, generator
        self._views: dict[int, Batch] = {}

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Batch]:
        """Yield one batch for each request of (size, scan numbers), prepared ahead in one background thread."""
        source = Prefetcher((self._batch(size, scans) for size, scans in requests), depth=2)
        try:
            yield from source
        finally:
            source.close()

    def views(self, scan: int) -> Batch:
        """Return one volume of a scan, drawn at the first request."""
        if scan not in self._views:
            self._views[scan] = stack([self.make(scan, self.generator)])
        return self._views[scan]

    def _batch(self, size: int, scans: Sequence[int]) -> Batch:
        return stack([self.make(i, self.generator) for i in take_turns(scans, size, self.generator)])


def stack(volumes: Sequence[Volume]) -> Batch:
    """Return volumes of one shape as a batch."""
    coords = coordinates(volumes[0].label.shape)
    images, labels = torch.stack([v.image for v in volumes]), torch.stack([v.label.long() for v in volumes])
    return Batch(images, coords.expand(len(volumes), *coords.shape), labels)


def open_pretext(
    dataset: CachedDataset,
    train: Sequence[str],
    query: Sequence[str],
    name: str,
    settings: UnnasSettings,
    dims: int,
) -> PretextTask:
    """Return the pretext task ``name`` on the scans of the cases ``train``, and fixed volumes of ``train`` and ``query``.

    Reads no label. The plan comes from the training scans. Along each axis, views show the mean of ``pretext.zoom`` and 1 of
    the content. Every batch gets new volumes; ``random-labels`` has one fixed volume a training scan. ``settings.seed`` alone
    decides classes and scored volumes. Raises DataError where a scan is nearly empty.
    """
    own, levels = settings.pretext, max(settings.levels)
    plan, scans = planned(dataset, train, settings.plan, (own.zoom + 1) / 2, levels)
    spacing = {c.name: c.spacing for c in dataset.cases}
    others = [Scan.of(n, plan.apply_image(dataset.lazy_image(n), spacing[n]).numpy()) for n in query]
    draws = np.random.default_rng([settings.seed, 61])
    pretext = build_pretext(name, own, frame_of(dataset, [*train, *query], plan, [*scans, *others], dims), draws)

    def make(index: int, generator: np.random.Generator) -> Volume:
        return _volume(dataset.name, name, pretext, scans[index], generator)

    learned = [make(i, draws) for i in range(len(scans))]
    asked = [_volume(dataset.name, name, pretext, scan, draws) for scan in others for _ in range(settings.query_volumes)]
    support = _support(name, learned, make, pretext.shape, np.random.default_rng([settings.seed, 62]))
    strides = stride_schedule(pretext.shape, plan.spacing, levels, settings.plan.thick_stride)
    task = Task(support, len(scans), len(plan.intensities), len(pretext.names), strides, pretext.shape, f"pretext-{name}")
    return PretextTask(task, learned, asked)


def _support(
    name: str,
    volumes: Sequence[Volume],
    make: Callable[[int, np.random.Generator], Volume],
    shape: tuple[int, int, int],
    generator: np.random.Generator,
) -> FreshVolumes | PatchSampler:
    if name == RANDOM_LABELS:
        return PatchSampler(volumes, shape, generator, foreground=0.0, augment=False)
    return FreshVolumes(make, len(volumes), generator)


def _volume(dataset: str, name: str, pretext: Pretext, scan: Scan, generator: np.random.Generator) -> Volume:
    for _ in range(_DRAWS):
        try:
            return pretext.volume(scan, generator)
        except TooLittleContent:
            continue
    raise DataError(f"{dataset}: {scan.name} is nearly all air at the volume size of the pretext {name}. Lower plan.view_voxels.")


@torch.inference_mode()
def confusion(net: SegmentationNet, volumes: Sequence[Volume], task: Task, runtime: Runtime, batch: int = 4) -> np.ndarray:
    """Return the voxel counts (K + 1, K + 1) of truth (rows) and prediction (columns) of ``net`` on whole volumes."""
    classes = task.num_organs + 1
    total = np.zeros((classes, classes), dtype=np.int64)
    for start in range(0, len(volumes), batch):
        part = stack(volumes[start : start + batch])
        with runtime.autocast():
            logits = net(runtime.place(part.images), part.coords.to(runtime.device), task.strides)
        truth, found = part.labels.flatten(), logits.argmax(1).cpu().flatten()
        pairs = (truth * classes + found)[truth != IGNORED]
        total += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).numpy()
    return total


def scores_of(counts: np.ndarray) -> tuple[float, float]:
    """Return mean Dice over the classes that occur (label 0 is one of them) and accuracy of voxel ``counts`` (K + 1, K + 1)."""
    sizes = counts.sum(0) + counts.sum(1)
    there = sizes > 0
    return float(np.mean(2.0 * np.diag(counts)[there] / sizes[there])), float(np.trace(counts) / counts.sum())
