"""First order: the gradient of the judging loss at the present weights (Liu et al. 2019, arXiv 1806.09055, eq. 5, xi = 0)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from .base import AlphaGradientSettings, Halves, Loss, register_alpha_gradient

log = logging.getLogger(__name__)


class BilevelSettings(AlphaGradientSettings):
    """Which scans judge alphas."""

    cross_fit: bool = True  #: with four or more scans: two copies of the weights on two halves, each judged on the other
    share: float = Field(default=0.5, gt=0, lt=1)  #: without cross_fit: share of the scans that judge alphas, at least one

    @model_validator(mode="after")
    def _warns_of_share(self) -> BilevelSettings:
        if self.cross_fit and self.share != type(self).model_fields["share"].default:
            log.warning("setting alpha_gradient.share %s has no effect: cross_fit splits the scans into halves", self.share)
        return self


class FirstOrderSettings(BilevelSettings):
    """First order: the scans that judge alphas."""

    name: str = "first_order"


def split_scans(num_scans: int, settings: BilevelSettings, generator: np.random.Generator) -> Halves:
    """Return the split of the support between weights and alphas.

    With four or more scans: two fixed, cross-fitted halves, or one split with ``share`` of the scans for the alphas. With fewer,
    all scans are on both sides, with different patches and augmentations; the report says so.
    """
    everything = tuple(range(num_scans))
    if num_scans < 4:
        return Halves((everything,), (everything,), False, "same scans, other patches and augmentations")
    order = [int(i) for i in generator.permutation(num_scans)]
    middle = num_scans // 2 if settings.cross_fit else max(1, int(num_scans * settings.share))
    first, second = tuple(sorted(order[:middle])), tuple(sorted(order[middle:]))
    if settings.cross_fit:
        return Halves((first, second), (second, first), True, "two halves, cross-fitted")
    return Halves((second,), (first,), False, f"single split, {len(first)} of {num_scans} scans judge alphas")


@register_alpha_gradient(
    "first_order", settings=FirstOrderSettings, source="Liu et al. 2019, arXiv 1806.09055, equation 5 (xi = 0)"
)
class FirstOrder:
    """The gradient of the loss on judging scans at the present weights; one extra gradient per alpha step."""

    bilevel = True
    evaluations = 1
    exact = False

    def __init__(self, settings: BilevelSettings) -> None:
        self.settings = settings

    def split(self, num_scans: int, generator: np.random.Generator) -> Halves:
        """Return which support scans train and which judge."""
        return split_scans(num_scans, self.settings, generator)

    def take(
        self, train: Loss, judge: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], rate: float
    ) -> tuple[list[Tensor], float]:
        """Return the gradient of ``judge`` by ``alphas`` (zero if it does not depend on them), and its value."""
        value = judge()
        parts = torch.autograd.grad(value, list(alphas), allow_unused=True)
        return [torch.zeros_like(a) if g is None else g for a, g in zip(alphas, parts, strict=True)], float(value.detach())
