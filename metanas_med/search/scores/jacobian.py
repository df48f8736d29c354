"""jacov: how independent the gradients of different inputs are."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike

from ...learner import Context, Task
from ...space.network import SegmentationNet
from .base import register_score
from .patterns import CropSettings
from .probe import check_finite, draw_crops, forward, started

_SMALL = 1e-5  #: added to eigenvalues, as published
_CHUNK = 8  #: crops of one backward pass: as many voxels as one view


class JacovSettings(CropSettings):
    """Jacobians of crops."""

    name: str = "jacov"


@register_score(
    "jacov",
    settings=JacovSettings,
    source="Mellor et al. 2020, arXiv 2006.04647v1, equation 4",
    needs="untrained weights: the published rank correlation is lost after one epoch; no labels are judged",
    costs="one forward and backward pass of 32 crops of 16^3",
)
class Jacov:
    """Minus the sum over eigenvalues v of log v + 1 / v, of the correlation matrix of the Jacobians of crops.

    A Jacobian is the gradient of the sum of a crop's logits by its voxels. The score is largest, -N, where the Jacobians of all N
    crops are uncorrelated. It is computed in float32, at any precision of the runtime.

    Cost: one forward and one backward pass of ``crops`` crops, without gradients of weights. Memory: the graph of eight crops.
    """

    def __init__(self, settings: JacovSettings) -> None:
        self.settings = settings

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the score; minus infinity if a Jacobian is constant."""
        images, coords = draw_crops(task, self.settings.crops, self.settings.extent, context.generator)
        probe, found = started(net, task), []
        for crops, places in zip(images.split(_CHUNK), coords.split(_CHUNK), strict=True):
            crops = crops.to(context.runtime.device).requires_grad_()
            with torch.enable_grad():
                total = forward(probe, crops, places, task, context).sum()
            found.append(torch.autograd.grad(total, crops)[0].flatten(1).double().cpu())
        jacobians = torch.cat(found)
        check_finite([float(jacobians.abs().sum())], "the gradient by a voxel")
        return correlation_score(jacobians.numpy())


def correlation_score(jacobians: ArrayLike) -> float:
    """Return minus the sum of log(v + k) + 1 / (v + k), k = 1e-5, over the eigenvalues v of the correlations of rows (N, D).

    Minus infinity if a row is constant, so that it has no correlation.
    """
    rows = np.asarray(jacobians, dtype=float)
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        return -math.inf
    rows = rows / norms
    values = np.clip(np.linalg.eigvalsh(rows @ rows.T), 0, None) + _SMALL
    return float(-(np.log(values) + 1 / values).sum())
