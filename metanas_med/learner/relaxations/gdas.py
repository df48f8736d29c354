"""GDAS: one sampled option a row runs, with a straight-through gradient (Dong and Yang 2019, arXiv 1910.04465, equations 4 to 7)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from ...space.choice import Choice, softmax_choice
from .base import RelaxationSettings, register_relaxation
from .sampling import gumbel_like, straight_through


class GdasSettings(RelaxationSettings):
    """Gumbel-softmax with a temperature that falls linearly."""

    name: str = "gdas"
    tau_start: float = Field(default=10.0, gt=0)  #: temperature at the first step
    tau_end: float = Field(default=0.1, gt=0)  #: temperature at the end of the search


@register_relaxation(
    "gdas",
    settings=GdasSettings,
    source="Dong and Yang 2019, arXiv 1910.04465",
    costs="one option a row runs: time and memory of one network",
)
class Gdas:
    """One option a row, drawn by Gumbel noise; its weight is 1 with the gradient of the tempered softmax.

    ``l = (log softmax(a) + Gumbel) / tau, p = softmax(l), c = argmax p, out = (1 - sg(p_c) + p_c) op_c(x)``, so that
    ``dL/da_k = <dL/dout, op_c(x)> p_c (d_ck - p_k) / tau``. The paper's first code added the weights of all options, so that options
    that did not run had a gradient as well.
    """

    def __init__(self, settings: GdasSettings) -> None:
        self.settings = settings

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return one drawn option a row; without a generator the softmax of all."""
        if generator is None:
            return softmax_choice(rows)
        s = self.settings
        tau = s.tau_start + (s.tau_end - s.tau_start) * progress
        weights, active = {}, {}
        for name, row in rows.items():
            p = torch.softmax((torch.log_softmax(row, 0) + gumbel_like(row, generator)) / tau, 0)
            chosen = int(p.argmax())
            hard = torch.zeros_like(p)
            hard[chosen] = 1.0
            weights[name], active[name] = straight_through(hard, p), (chosen,)
        return Choice(weights, active=active)
