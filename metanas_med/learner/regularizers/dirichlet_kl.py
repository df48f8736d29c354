"""The regularizer of DrNAS: it keeps the Dirichlet distributions of the options near the uniform one."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from ...space.network import SegmentationNet
from ..episode import Task
from .base import Combination, Penalty, RegularizerSettings, decision_rows, register_regularizer


class DirichletKlSettings(RegularizerSettings):
    """Weight and form of the penalty."""

    name: str = "dirichlet_kl"
    weight: float = Field(default=1e-3, gt=0)  #: weight of the penalty
    form: Literal["kl", "l2"] = "kl"  #: kl: divergence from Dirichlet(1); l2: norm of the alphas


@register_regularizer(
    "dirichlet_kl",
    settings=DirichletKlSettings,
    source="DrNAS, Chen et al. 2021, arXiv 2006.10355",
    needs="relaxation dirichlet",
    costs="nothing: one scalar of the alphas",
    refuses="every other relaxation",
)
class DirichletKl:
    """``weight * sum over rows of KL(Dirichlet(elu(alphas) + 1), Dirichlet(1))``, or ``weight`` times the norm of all alphas."""

    def __init__(self, settings: DirichletKlSettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> Penalty:
        """Return the penalty."""
        s = self.settings

        def penalty(model: SegmentationNet) -> Tensor:
            rows = decision_rows(model)
            if s.form == "l2":
                return s.weight * torch.cat(rows).norm()
            # as the relaxation has it: elu(a) + 1 is 0 far below 0
            found = [kl_divergence(Dirichlet(F.elu(row) + 1 + 1e-6), Dirichlet(torch.ones_like(row))) for row in rows]
            return s.weight * torch.stack(found).sum()

        return penalty

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        name = combination.learner.relaxation.name
        if name == "dirichlet":
            return ""
        return f"it limits Dirichlet distributions, the relaxation is {name}. Use relaxation.name dirichlet, or beta_decay."
