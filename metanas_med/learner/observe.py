"""What feature steps see of an episode: the decoder features of its patches, and sampled voxels of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..space.network import SegmentationNet, sample_features
from .episode import BatchLike, Task
from .head import VoxelSample, complete_classes, sample_labels, sample_voxels
from .runtime import Runtime


@dataclass(frozen=True)
class Episode:
    """The features of an episode's patches: decoder ``features`` (finest first) of all patches, and sampled voxels of each.

    ``samples[i]`` holds the head's features (n, F), labels (n,) and weights (n,) of patch i.
    """

    features: list[Tensor]
    coords: Tensor
    labels: Tensor
    samples: list[VoxelSample]
    missing: tuple[tuple[int, ...], ...] = ()  #: organs that are not annotated in each patch's scan; empty if all are

    def part(self, which: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sampled features (n, F), labels (n,) and weights (n,) of some patches."""
        chosen = self.samples[which]
        return (
            torch.cat([s.features for s in chosen]),
            torch.cat([s.labels for s in chosen]),
            torch.cat([s.weights for s in chosen]),
        )


def observe(
    net: SegmentationNet, task: Task, halves: Sequence[BatchLike], voxels: int, generator: torch.Generator, runtime: Runtime
) -> Episode:
    """Return the features of ``net`` for the patches of both halves, with ``voxels`` sampled voxels per patch.

    The background of scans with organs that are not annotated is sampled only in a half without any other scan.
    """
    missing, size = _missing(halves), len(halves[0].labels)

    def draw(patch: int, labels: Tensor) -> tuple[Tensor, Tensor]:
        half = missing[:size] if patch < size else missing[size:]
        return sample_voxels(labels, voxels, generator, background=not missing[patch] or all(half))

    return _seen(net, task, halves, draw, runtime)


def observe_labels(
    net: SegmentationNet, task: Task, halves: Sequence[BatchLike], voxels: int, generator: torch.Generator, runtime: Runtime
) -> Episode:
    """Return what ``observe`` does, with equally many voxels for each label of a patch, the background included.

    The background of scans with organs that are not annotated is sampled only if there is no other scan in either half.
    """
    missing = _missing(halves)

    def draw(patch: int, labels: Tensor) -> tuple[Tensor, Tensor]:
        return sample_labels(labels, voxels, generator, background=not missing[patch] or all(missing))

    return _seen(net, task, halves, draw, runtime)


def _missing(halves: Sequence[BatchLike]) -> tuple[tuple[int, ...], ...]:
    """Return the organs that are not annotated in the scan of each patch."""
    return tuple(organs for h in halves for organs in (h.missing or ((),) * len(h.labels)))


def _seen(
    net: SegmentationNet,
    task: Task,
    halves: Sequence[BatchLike],
    draw: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    runtime: Runtime,
) -> Episode:
    """Return the features of all patches, and of the voxels (n, 3), with weights (n,), that ``draw`` gives for each patch."""
    images = torch.cat([h.images for h in halves])
    coords = torch.cat([h.coords for h in halves]).to(runtime.device)
    labels = torch.cat([h.labels for h in halves])
    with runtime.autocast():
        features = net.features(runtime.place(images), task.strides)
    samples, missing = [], _missing(halves)
    for i in range(len(labels)):
        where, share = draw(i, labels[i])
        sampled = sample_features([f[i : i + 1] for f in features], coords[i : i + 1], where.to(runtime.device), labels.shape[1:])
        samples.append(VoxelSample(net.head.pad(sampled, [f.shape[1] for f in features]), labels[i][tuple(where.T)], share))
    return Episode(features, coords, labels, complete_classes(samples, missing, net.num_organs), missing if any(missing) else ())
