"""Scores of the gradient of the support loss: its norm, and SNIP."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...learner import Context, Task
from ...learner.losses import segmentation_loss
from ...learner.support import start_head
from ...learner.weights import forward_loss
from ...space.network import SegmentationNet
from .base import ScoreSettings, register_score
from .probe import check_finite, started, torch_generator


class GradientSettings(ScoreSettings):
    """The gradient of the loss of one batch."""

    batch: int = Field(default=8, ge=1)  #: patches whose loss is differentiated
    head: Literal["closed_form", "meta_row"] = "closed_form"  #: rows: ridge regression as in ``adapt``, or the meta-learned row
    ridge_voxels: int = Field(default=3000, ge=16)  #: support voxels a scan for the closed form


class GradNormSettings(GradientSettings):
    """The norm of the gradient."""

    name: str = "grad_norm"


class SnipSettings(GradientSettings):
    """Weights times gradients."""

    name: str = "snip"


class _OfGradient:
    def __init__(self, settings: GradientSettings) -> None:
        self.settings = settings

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the score. Raises NonFiniteLossError if the loss or a gradient is not finite."""
        total = sum(float(self.of(value.double(), grad.double())) for value, grad in gradients(net, task, context, self.settings))
        check_finite([total], "the gradient")
        return total

    def of(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return what a tensor of weights adds to the score."""
        raise NotImplementedError


_COSTS = "one forward and backward pass of 8 patches in float32, and one forward pass a scan for the head"


@register_score(
    "grad_norm",
    settings=GradNormSettings,
    source="Abdelfattah et al. 2021, arXiv 2101.08134, section 3.2",
    needs="untrained or meta-learned weights, labels",
    costs=_COSTS,
)
class GradNorm(_OfGradient):
    """Sum over weight tensors of the Euclidean norm of the gradient of the support loss.

    Cost: one forward and one backward pass of ``batch`` patches in float32; with a closed-form head also one forward pass a scan.
    Memory: the graph of the batch, and one gradient for each weight.
    """

    def of(self, weight: Tensor, gradient: Tensor) -> Tensor:
        return gradient.norm()


@register_score(
    "snip",
    settings=SnipSettings,
    source="Lee et al. 2019, arXiv 1810.02340, equation 4 (unnormalised, summed: arXiv 2101.08134, equation 1)",
    needs="untrained or meta-learned weights, labels",
    costs=_COSTS,
)
class Snip(_OfGradient):
    """Sum over weights of |w dL/dw|, where L is the support loss.

    Cost and memory: as of ``grad_norm``.
    """

    def of(self, weight: Tensor, gradient: Tensor) -> Tensor:
        return (weight * gradient).abs().sum()


def gradients(net: SegmentationNet, task: Task, context: Context, settings: GradientSettings) -> list[tuple[Tensor, Tensor]]:
    """Return the weights of stem, body and head that the support loss depends on, each with its gradient."""
    probe, every = started(net, task), range(task.num_scans)
    if settings.head == "closed_form":
        rng = torch_generator(context.generator)
        start_head(probe, task, list(every), settings.ridge_voxels, rng, context.runtime)
    (batch,) = task.support.stream([(settings.batch, tuple(every))])
    weights = [value for value in probe.weights().values() if value.requires_grad]
    with torch.enable_grad():
        loss = forward_loss(probe, batch, task, context, segmentation_loss(), float32=True)
    check_finite([float(loss.detach())], "the loss")
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    return [(value.detach(), grad) for value, grad in zip(weights, grads, strict=True) if grad is not None]
