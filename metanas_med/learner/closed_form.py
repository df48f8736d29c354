"""Losses of an episode under head rows that are solved in closed form, or kept and trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..space.network import SegmentationNet
from .head import Moments, calibrate_scores, ridge
from .losses import Loss, batch_loss
from .observe import Episode

#: rate at which the head's meta-learned rows follow the solved ones, so that they are also a start without the closed form
_ROW_RATE = 0.02


def closed_form_loss(
    net: SegmentationNet, seen: Episode, loss: Loss, strength: float, through: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of both halves, each under rows (K + 1, F) solved on the other, and the mean of those rows, detached.

    ``strength``: of the ridge. ``through``: the gradient passes through the solution; joint training has none there.
    Scale and biases of the logits are fitted to the judged voxels and treated as constants.
    """
    size = len(seen.labels) // 2
    base = net.head.rows(torch.zeros_like(net.task["rows"])).detach()
    total, mean = torch.zeros((), device=base.device), torch.zeros_like(base)
    sides = (slice(0, size), slice(size, 2 * size))
    for fit, judge in (sides, sides[::-1]):
        x, y, _ = seen.part(fit)
        rows = solved_rows(x, y, net.num_organs, strength)
        rows = rows if through else rows.detach()
        rows = _calibrated(rows, *seen.part(judge))
        logits = net.head([f[judge] for f in seen.features], seen.coords[judge], rows - base)
        total = total + batch_loss(loss, logits, seen.labels[judge], seen.missing[judge]) / 2
        mean += rows.detach() / 2
    return total, mean


def _calibrated(rows: Tensor, features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return ``rows`` (K + 1, F) with the scale and biases that fit sampled voxels best, both treated as constants."""
    scores = features.detach().cpu().float() @ rows.detach().cpu().float().T
    _, scale, bias = calibrate_scores(scores, labels, weights)
    return rows * scale.to(rows) + F.pad(bias[:, None].to(rows), (rows.shape[1] - 1, 0))


def trained_loss(net: SegmentationNet, seen: Episode, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return the loss of all patches under the task's own rows (K + 1, F), and those rows, detached."""
    logits = net.head(seen.features, seen.coords, net.task["rows"])
    return batch_loss(loss, logits, seen.labels, seen.missing), net.head.rows(net.task["rows"]).detach()


def solved_rows(features: Tensor, labels: Tensor, num_organs: int, strength: float) -> Tensor:
    """Return the ridge solution (K + 1, F) of class-balanced voxels; differentiable in ``features`` (n, F). ``labels``: (n,)."""
    gram, moment = Moments.of(features, labels, num_organs).balanced()
    return ridge(gram, moment, strength).to(features.dtype)


@torch.no_grad()
def start_rows(net: SegmentationNet, seen: Episode, strength: float) -> None:
    """Set the rows of a new task to those solved on all sampled voxels."""
    x, y, weights = seen.part(slice(None))
    rows = _calibrated(solved_rows(x, y, net.num_organs, strength), x, y, weights)
    offsets = net.task["rows"]
    offsets.copy_(rows - net.head.rows(torch.zeros_like(offsets)))


@torch.no_grad()
def follow_rows(net: SegmentationNet, rows: Tensor) -> None:
    """Move the head's meta-learned rows a little towards a task's ``rows`` (K + 1, F)."""
    net.head.background.lerp_(rows[0], _ROW_RATE)
    net.head.organ.lerp_(rows[1:].mean(0), _ROW_RATE)
