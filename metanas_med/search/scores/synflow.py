"""SynFlow: the total strength of all paths from the input to the logits."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...learner import Context, Task
from ...space.network import NUM_POSITION, SegmentationNet
from .base import ScoreSettings, register_score
from .probe import check_finite, linear, started


class SynflowSettings(ScoreSettings):
    """Path strengths on one crop of ones."""

    name: str = "synflow"
    extent: int = Field(default=16, ge=1)  #: voxels of the crop along each axis, where the view has as many


@register_score(
    "synflow",
    settings=SynflowSettings,
    source="Tanaka et al. 2020, arXiv 2006.05467, equation 2",
    needs="untrained or meta-learned weights; no scan is read",
    costs="one forward and backward pass of a crop of 16^3 in float64; a copy of the network",
)
class Synflow:
    """Logarithm of the sum over weights of w dR/dw, where R is the mean logit of a crop of ones through |w|, without norms.

    Published is the sum itself; the order is the same, and the logarithm can be standardised. R sums over classes and means over
    voxels, so that crops of different sizes compare. Every layer of a chain contributes R. Norms and the stem's activation are
    skipped, and everything is computed in float64, because products of many layers leave the range of float32. Position features
    of the head are left out.

    Cost: one forward and one backward pass of a crop in float64, on the CPU. Memory: two float64 copies of the network.
    """

    def __init__(self, settings: SynflowSettings) -> None:
        self.settings = settings

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the logarithm; minus infinity if no path is left."""
        total = sum(float(value.sum()) for value in path_strengths(net, task, self.settings.extent).values())
        check_finite([total], "the strength of all paths")
        return math.log(total) if total > 0 else -math.inf


def path_strengths(net: SegmentationNet, task: Task, extent: int) -> dict[str, Tensor]:
    """Return w dR/dw of every weight by name, float64, 0 or more; of weights that R does not depend on, there is none."""
    double = started(copy.deepcopy(net).to("cpu").double(), task)
    with torch.no_grad():
        for name, value in [*double.named_parameters(), *double.named_buffers()]:
            if not name.startswith("body.alphas."):
                value.abs_()
        for rows in (double.head.background, double.head.organ):
            rows[-NUM_POSITION:] = 0.0
    shape = np.minimum(extent, task.view).tolist()
    ones = torch.ones(1, task.num_channels, *shape, dtype=torch.float64)
    weights = {name: value.requires_grad_() for name, value in double.weights().items()}
    with linear(double), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        flow = double(ones, ones.new_zeros(1, 3, *shape), task.strides).sum() / math.prod(shape)
        grads = torch.autograd.grad(flow, list(weights.values()), allow_unused=True)
    return {name: (value * grad).detach() for (name, value), grad in zip(weights.items(), grads, strict=True) if grad is not None}
