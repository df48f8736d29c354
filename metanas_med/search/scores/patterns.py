"""NASWOT: how different the activation patterns of different inputs are."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ...learner import Context, Task
from ...space.network import SegmentationNet
from .base import ScoreSettings, register_score
from .probe import draw_crops, forward, started, watched


class CropSettings(ScoreSettings):
    """Crops of the support that a score looks at."""

    crops: int = Field(default=32, ge=32)  #: number of crops; with few, any network separates them
    extent: int = Field(default=16, ge=4)  #: voxels of a crop along each axis; at most half of a view's


class NaswotSettings(CropSettings):
    """Activation patterns of crops."""

    name: str = "naswot"


@register_score(
    "naswot",
    settings=NaswotSettings,
    source="Mellor et al. 2021, arXiv 2006.04647v3, equation 2",
    needs="untrained or meta-learned weights; no labels are judged",
    costs="one forward pass of 32 crops of 16^3",
)
class Naswot:
    """Log-determinant of the kernel of leaky-ReLU sign patterns of crops.

    Entry (i, j) of the kernel is the number of activations that are on in both crops, or off in both. Patterns are those of the stem
    and of all norms. The score grows with the number of activations, as published. It is computed in float32, at any precision of
    the runtime.

    Cost: one forward pass of ``crops`` crops, and N^2 D operations for D activations. Memory: about as a prediction of the same
    number of voxels; patterns are not kept.
    """

    def __init__(self, settings: NaswotSettings) -> None:
        self.settings = settings

    @torch.no_grad()
    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the log-determinant; minus infinity if two crops have the same pattern."""
        s, found = self.settings, list[NDArray[np.float64]]()

        def take(output: Tensor) -> None:
            found.append(agreement((output > 0).reshape(s.crops, -1)))  # the slices of a crop belong together

        images, coords = draw_crops(task, s.crops, s.extent, context.generator)
        probe = started(net, task)
        with watched(probe, take):
            forward(probe, images, coords, task, context)
        return log_determinant(np.sum(found, axis=0))


def agreement(patterns: Tensor) -> NDArray[np.float64]:
    """Return the number of entries in which each two rows of ``patterns`` (N, D), bool, agree: (N, N).

    Counts are exact up to 2^24 entries: signs are multiplied in float32.
    """
    signs = patterns.float() * 2 - 1
    return ((signs @ signs.T).double().cpu().numpy() + patterns.shape[1]) / 2


def log_determinant(kernel: NDArray[np.float64]) -> float:
    """Return the log-determinant of a positive semidefinite ``kernel`` (N, N); minus infinity if it is singular in float64."""
    values = np.linalg.eigvalsh(kernel)
    if not values[0] > len(kernel) * np.finfo(float).eps * values[-1]:
        return -math.inf
    return float(np.log(values).sum())
