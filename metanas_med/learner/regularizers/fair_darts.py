"""The zero-one loss of Fair-DARTS: it pushes the probability of every option to 0 or 1."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ...space.network import SegmentationNet
from ..episode import Task
from .base import Combination, Penalty, RegularizerSettings, decision_rows, register_regularizer


class FairDartsSettings(RegularizerSettings):
    """Weight of the zero-one loss."""

    name: str = "fair_darts"
    weight: float = Field(default=10.0, gt=0)  #: weight of the loss


@register_regularizer(
    "fair_darts",
    settings=FairDartsSettings,
    source="Fair-DARTS, Chu et al. 2020, arXiv 1911.12126: the zero-one loss",
    needs="relaxation sigmoid, whose options do not compete; discretizer threshold reads it off as published",
    costs="nothing: one scalar of the alphas",
    refuses="every other relaxation",
)
class FairDarts:
    """``-weight * mean((sigmoid(alphas) - 0.5)^2)`` over all options of all rows."""

    def __init__(self, settings: FairDartsSettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> Penalty:
        """Return the penalty."""

        def penalty(model: SegmentationNet) -> Tensor:
            every = torch.cat(decision_rows(model))
            return -self.settings.weight * (torch.sigmoid(every) - 0.5).square().mean()

        return penalty

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        name = combination.learner.relaxation.name
        if name == "sigmoid":
            return ""
        return f"its loss is one of sigmoids, the relaxation is {name}. Use relaxation.name sigmoid, or leave fair_darts out."
