"""The segmentation loss: MONAI's, on logits and integer label maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache
def segmentation_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of logits (B, K + 1, X, Y, Z) and labels (B, X, Y, Z) int64, a scalar.

    MONAI's DiceCELoss: Dice over the whole batch and the organs only, cross-entropy over all classes, equal weights.
    """
    from monai.losses.dice import DiceCELoss

    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    return lambda logits, labels: loss(logits, labels[:, None])


def mean_dice(logits: Tensor, labels: Tensor) -> float:
    """Return the mean hard Dice over the organs that occur in ``labels`` (B, X, Y, Z) or in the prediction of ``logits``."""
    prediction = logits.argmax(1)
    values = []
    for organ in range(1, logits.shape[1]):
        p, t = prediction == organ, labels == organ
        total = int(p.sum()) + int(t.sum())
        if total:
            values.append(2.0 * int(torch.logical_and(p, t).sum()) / total)
    return sum(values) / len(values) if values else 1.0
