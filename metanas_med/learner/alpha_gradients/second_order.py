"""The second-order gradient of alpha (Liu et al. 2019, arXiv 1806.09055, equations 7, 8), by finite differences.

``grad_a L_val(w', a) - rate * d^2 L_train / da dw * grad_w' L_val(w', a)`` with ``w' = w - rate * grad_w L_train(w, a)``, one
plain gradient step, whatever optimizer the learner uses. The mixed product is a difference of two gradients *divided* by 2 eps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from .base import Loss, register_alpha_gradient
from .first_order import BilevelSettings, FirstOrder


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


@contextmanager
def _moved(weights: Sequence[Tensor], vector: Sequence[Tensor], by: float) -> Iterator[None]:
    """Hold ``weights`` at ``weights + by * vector`` within the block; afterwards they are restored bit for bit."""
    before = [w.detach().clone() for w in weights]
    try:
        with torch.no_grad():
            for w, v in zip(weights, vector, strict=True):
                w.add_(v, alpha=by)
        yield
    finally:
        with torch.no_grad():
            for w, b in zip(weights, before, strict=True):
                w.copy_(b)


def hessian_vector(
    loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    vector: Sequence[Tensor],
    step: float = 0.01,
) -> list[Tensor]:
    """Return ``d^2 loss / (d alphas d weights) * vector``, one tensor per alpha: differences with ``eps = step / |vector|``.

    ``loss()`` is evaluated twice, at ``weights`` plus and minus ``eps * vector``. A zero vector gives zeros.
    """
    norm = float(torch.stack([v.norm() for v in vector]).norm())
    if norm == 0.0:
        return [torch.zeros_like(a) for a in alphas]
    eps = step / norm
    with _moved(weights, vector, eps):
        plus = _gradients(loss(), alphas)
    with _moved(weights, vector, -eps):
        minus = _gradients(loss(), alphas)
    return [(p - n) / (2 * eps) for p, n in zip(plus, minus, strict=True)]


def second_order_gradient(
    train: Callable[[], Tensor],
    validation: Callable[[], Tensor],
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    rate: float,
    step: float = 0.01,
) -> tuple[list[Tensor], float]:
    """Return the gradient of alphas through one weight step of ``rate``, and the validation loss after it.

    Costs four gradients where first order costs one. The mixed product is taken at the present weights.
    """
    downhill = _gradients(train(), weights)
    with _moved(weights, downhill, -rate):
        value = validation()
        both = _gradients(value, [*alphas, *weights])
    direct, vector = both[: len(alphas)], both[len(alphas) :]
    mixed = hessian_vector(train, weights, alphas, vector, step)
    return [d - rate * m for d, m in zip(direct, mixed, strict=True)], float(value.detach())


class SecondOrderSettings(BilevelSettings):
    """Second order: scans that judge alphas, and the step of the differences."""

    uses_rate: ClassVar[bool] = True

    name: str = "second_order"
    step: float = Field(default=0.01, gt=0)  #: distance in weight space of each difference: eps = step / |gradient|


@register_alpha_gradient(
    "second_order", settings=SecondOrderSettings, source="Liu et al. 2019, arXiv 1806.09055, equations 7 and 8"
)
class SecondOrder(FirstOrder):
    """The gradient through one plain weight step, by finite differences; four gradients per alpha step, in float32."""

    evaluations = 4
    exact = True

    def __init__(self, settings: SecondOrderSettings) -> None:
        super().__init__(settings)
        self.step = settings.step

    def take(
        self, train: Loss, judge: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], rate: float
    ) -> tuple[list[Tensor], float]:
        """Return the gradient of ``judge`` by ``alphas`` after a step of ``rate`` down ``train``, and its value there."""
        return second_order_gradient(train, judge, weights, alphas, rate, self.step)
