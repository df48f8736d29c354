"""Beta-decay: a penalty that keeps the weights of options close, and grows during the search."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ...space.network import SegmentationNet
from ..episode import Task
from .base import Combination, Penalty, RegularizerSettings, decision_rows, register_regularizer


class BetaDecaySettings(RegularizerSettings):
    """The weight of the penalty, at the first and at the last step of the search."""

    name: str = "beta_decay"
    start: float = Field(default=0.0, ge=0)  #: weight at the first step
    end: float = Field(default=50.0, ge=0)  #: weight at the last step; linear in between


def mean_logsumexp(net: SegmentationNet) -> Tensor:
    """Return the mean over rows of ``logsumexp(alphas)``: a scalar with gradients."""
    return torch.stack([row.logsumexp(0) for row in decision_rows(net)]).mean()


@register_regularizer(
    "beta_decay",
    settings=BetaDecaySettings,
    source="Beta-DARTS, Ye et al. 2022, arXiv 2203.01665",
    needs="alphas that a softmax weighs",
    costs="nothing: one scalar of the alphas",
    refuses="relaxations sigmoid and dirichlet",
)
class BetaDecay:
    """``weight * mean over rows of logsumexp(alphas)``; the weight grows linearly from ``start`` to ``end``."""

    def __init__(self, settings: BetaDecaySettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> Penalty:
        """Return the penalty, whose weight follows the progress of the search."""
        s = self.settings

        def penalty(model: SegmentationNet) -> Tensor:
            return (s.start + (s.end - s.start) * model.body.relaxed.progress) * mean_logsumexp(model)

        return penalty

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        name = combination.learner.relaxation.name
        if name not in ("sigmoid", "dirichlet"):
            return ""
        return f"its penalty limits a softmax, and relaxation {name} has none. Use another relaxation, or leave beta_decay out."
