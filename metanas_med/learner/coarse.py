"""Coarse views: batches at half the resolution, for cheaper first steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .episode import BatchLike

Triple = tuple[int, int, int]

#: an axis with fewer voxels is not halved, as in the stride schedule of plans
_LEAST = 6


@dataclass(frozen=True)
class CoarseBatch:
    """A batch at a lower resolution, and the ``strides`` that a network takes on it."""

    images: Tensor
    coords: Tensor
    labels: Tensor
    missing: tuple[tuple[int, ...], ...]
    strides: tuple[Triple, ...]


def coarsen(batch: BatchLike, strides: Sequence[Sequence[int]], dims: int = 3) -> CoarseBatch:
    """Return ``batch`` with the same field of view and half of the voxels along each axis that the first of ``strides`` halves.

    Images and coordinates are means over the voxels that become one, and labels are their majority (the lowest of equally
    frequent ones). With ``dims`` 2 the last axis stays. The network's first transition on the coarse view is its second one on
    the full view, and so on; the last is repeated, where an axis is still long enough. A view has a quarter of the voxels if two
    axes are halved, an eighth if three are. Without a transition, nothing is halved.
    """
    factors = _triple(strides[0] if strides else (1, 1, 1), dims)
    shape = batch.labels.shape[1:]
    sizes = tuple(-(-n // k) for n, k in zip(shape, factors, strict=True))
    return CoarseBatch(
        _mean(batch.images, factors),
        _mean(batch.coords, factors),
        _majority(batch.labels, factors),
        batch.missing,
        _shifted([_triple(s, dims) for s in strides], sizes),
    )


def _triple(stride: Sequence[int], dims: int) -> Triple:
    return int(stride[0]), int(stride[1]), 1 if dims == 2 else int(stride[2])


def _mean(values: Tensor, factors: Triple) -> Tensor:
    # the last windows of an odd axis are smaller; their mean is over the voxels that they have
    return F.avg_pool3d(values, factors, ceil_mode=True)


def _majority(labels: Tensor, factors: Triple) -> Tensor:
    """Return the most frequent label (B, X', Y', Z') int64 of each window of ``labels`` (B, X, Y, Z)."""
    found = torch.zeros_like(labels[:, :: factors[0], :: factors[1], :: factors[2]])
    best = _mean((labels == 0)[:, None].float(), factors)[:, 0]
    for organ in torch.unique(labels[labels > 0]).tolist():
        share = _mean((labels == organ)[:, None].float(), factors)[:, 0]
        found[share > best] = organ
        best = torch.maximum(best, share)
    return found


def _shifted(strides: Sequence[Triple], sizes: Sequence[int]) -> tuple[Triple, ...]:
    """Return the schedule of a view of ``sizes`` whose voxels the first of ``strides`` made."""
    current, found = list(sizes), []
    for step in [*strides[1:], *strides[-1:]]:
        kept = [k if n >= _LEAST else 1 for n, k in zip(current, step, strict=True)]
        found.append((kept[0], kept[1], kept[2]))
        current = [-(-n // k) for n, k in zip(current, kept, strict=True)]
    return tuple(found)
