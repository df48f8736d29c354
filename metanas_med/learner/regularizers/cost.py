"""A penalty on expected multiply-adds above a budget."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor

from ...space import expected_multiply_adds
from ...space.network import SegmentationNet
from ..episode import Task
from .base import Penalty, RegularizerSettings, register_regularizer


class CostSettings(RegularizerSettings):
    """Weight and budget of the cost penalty."""

    name: str = "cost"
    weight: float = Field(default=1.0, gt=0)  #: weight of the penalty
    budget: float = Field(default=1.0, gt=0)  #: share of the expected multiply-adds at uniform alphas


@register_regularizer(
    "cost", settings=CostSettings, source="after FBNet, Wu et al. 2019, arXiv 1812.03443: expected cost from a table"
)
class Cost:
    """``weight * relu(expected multiply-adds / (budget * those at uniform alphas) - 1)``, of one training view."""

    def __init__(self, settings: CostSettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> Penalty:
        """Return the penalty; the cost at uniform alphas is measured once."""
        uniform = uniform_cost(net, task)

        def penalty(model: SegmentationNet) -> Tensor:
            cost = expected_multiply_adds(model.body, task.view, task.strides) / uniform
            return self.settings.weight * torch.relu(cost / self.settings.budget - 1.0)

        return penalty


def uniform_cost(net: SegmentationNet, task: Task) -> float:
    """Return the expected multiply-adds of one view when every alpha is uniform."""
    uniform = copy.deepcopy(net.body)
    with torch.no_grad():
        for p in uniform.alphas().values():
            p.zero_()
        return float(expected_multiply_adds(uniform, task.view, task.strides))
