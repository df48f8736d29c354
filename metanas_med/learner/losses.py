"""The segmentation loss: MONAI's, on logits and integer label maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..ignored import IGNORED

#: for each entry of a batch, the organs 1..K that are not annotated in its scan; empty if all are annotated in all of them
Missing = Sequence[Sequence[int]]


class Loss(Protocol):
    """The loss of logits (B, K + 1, X, Y, Z) and labels (B, X, Y, Z) int64, a scalar."""

    def __call__(self, logits: Tensor, labels: Tensor, missing: Missing = (), /) -> Tensor: ...


@lru_cache
def segmentation_loss() -> Loss:
    """Return the loss of logits (B, K + 1, X, Y, Z) and labels (B, X, Y, Z) int64, a scalar.

    MONAI's DiceCELoss: Dice over the whole batch and the organs only, cross-entropy over all classes, equal weights. Organs that
    are ``missing`` in an entry are merged with its background (see ``merge_missing``). IGNORED voxels are left out.
    """
    from monai.losses.dice import DiceCELoss

    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)

    def take(logits: Tensor, labels: Tensor, missing: Missing = (), /) -> Tensor:
        if bool((known := labels != IGNORED).all()):
            return of_known(logits, labels, missing)
        if not bool(known.any()):
            return logits.sum() * 0.0
        # the loss sums over the batch and all voxels, so the known voxels of each entry may lie in a row
        if any(missing):
            logits, labels = merge_missing(logits, labels.where(known, 0), missing)
        rows = logits.movedim(1, -1)[known]
        return of_known(rows.T[None, :, :, None, None], labels[known][None, :, None, None])

    def of_known(logits: Tensor, labels: Tensor, missing: Missing = ()) -> Tensor:
        if any(missing):
            logits, labels = merge_missing(logits, labels, missing)
            if logits.shape[1] == 1:  # no organ of this batch is annotated: it says nothing
                return logits.sum() * 0.0
        return loss(logits, labels[:, None])

    return take


def batch_loss(loss: Loss, logits: Tensor, labels: Tensor, missing: Missing = ()) -> Tensor:
    """Return ``loss`` of a batch; a loss that knows no ``missing`` organs suffices where all are annotated."""
    labels = labels.to(logits.device)
    return loss(logits, labels, missing) if any(missing) else loss(logits, labels)


def merge_missing(logits: Tensor, labels: Tensor, missing: Missing) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a batch in which the ``missing`` organs of each entry are part of its background.

    The marginal loss of Shi et al. 2021 (Medical Image Analysis 70, "Marginal loss and exclusion loss for partially supervised
    multi-organ segmentation"): in a scan where an organ is not annotated, a background voxel may show it, so their probabilities
    add up. Dice then counts an organ in those entries alone that annotate it. Organs that no entry annotates are left out.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    entries = []
    for own, organs in zip(logits, missing, strict=True):
        if organs:
            background = own[[0, *organs]].logsumexp(0)
            gone = torch.zeros(len(own), dtype=torch.bool, device=own.device)
            gone[list(organs)] = True
            own = torch.cat([background[None], own[1:].masked_fill(gone[1:, None, None, None], -torch.inf)])
        entries.append(own)
    known = [0, *(k for k in range(1, logits.shape[1]) if any(k not in organs for organs in missing))]
    table = torch.zeros(logits.shape[1], dtype=labels.dtype, device=labels.device)
    table[known] = torch.arange(len(known), dtype=labels.dtype, device=labels.device)
    return torch.stack(entries)[:, known], table[labels]


def organ_dice(logits: Tensor, labels: Tensor, missing: Missing = ()) -> dict[int, float]:
    """Return the hard Dice by organ, over the entries that annotate it; without organs in neither labels nor prediction.

    ``logits`` (B, K + 1, X, Y, Z), ``labels`` (B, X, Y, Z).
    """
    prediction, known = logits.argmax(1), labels != IGNORED
    found = {}
    for organ in range(1, logits.shape[1]):
        p, t = (prediction == organ) & known, labels == organ
        if any(missing):
            rows = [i for i, organs in enumerate(missing) if organ not in organs]
            p, t = p[rows], t[rows]
        total = int(p.sum()) + int(t.sum())
        if total:
            found[organ] = 2.0 * int(torch.logical_and(p, t).sum()) / total
    return found


def mean_dice(logits: Tensor, labels: Tensor, missing: Missing = ()) -> float:
    """Return the mean of ``organ_dice`` over the organs that occur in the labels or in the prediction; 1 if none does."""
    values = list(organ_dice(logits, labels, missing).values())
    return sum(values) / len(values) if values else 1.0
