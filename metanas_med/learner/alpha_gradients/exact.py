"""The second-order gradient of alpha (Liu et al. 2019, arXiv 1806.09055, equation 7), exact.

``d/da L_val(w - rate * grad_w L_train(w, a), a)``: the weight step is part of the graph, and one backward pass goes through it.
``torch.func.functional_call`` runs the network at the moved weights, and autograd takes the second derivatives
(``create_graph``). The custom functions of ``space/blocks`` (norm, mixtures, merged kernels, max pooling) are differentiable twice,
so no rule of theirs for ``torch.func`` is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from .base import Loss, register_alpha_gradient
from .first_order import BilevelSettings, FirstOrder


def exact_second_order_gradient(
    train: Loss, judge: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], rate: float
) -> tuple[list[Tensor], float]:
    """Return the gradient of ``judge`` by ``alphas`` through one step of ``rate`` down ``train``, and its value there.

    Weights do not move. The graphs of both losses and of the first gradient are in memory at once.
    """
    slopes = torch.autograd.grad(train(), list(weights), create_graph=True, allow_unused=True)
    moved = [w if slope is None else w - rate * slope for w, slope in zip(weights, slopes, strict=True)]
    value = judge(moved)
    parts = torch.autograd.grad(value, list(alphas), allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for a, g in zip(alphas, parts, strict=True)], float(value.detach())


class ExactSecondOrderSettings(BilevelSettings):
    """Exact second order: scans that judge alphas."""

    uses_rate: ClassVar[bool] = True

    name: str = "second_order_exact"


@register_alpha_gradient(
    "second_order_exact",
    settings=ExactSecondOrderSettings,
    source="Liu et al. 2019, arXiv 1806.09055, equation 7; by automatic differentiation instead of differences",
    costs="four gradients per alpha step in float32, and the memory of three graphs",
)
class ExactSecondOrder(FirstOrder):
    """The gradient through one plain weight step, by automatic differentiation: no step size to choose."""

    evaluations = 4
    exact = True

    def take(
        self, train: Loss, judge: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], rate: float
    ) -> tuple[list[Tensor], float]:
        """Return the gradient of ``judge`` by ``alphas`` after a step of ``rate`` down ``train``, and its value there."""
        return exact_second_order_gradient(train, judge, weights, alphas, rate)
