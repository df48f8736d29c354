"""ProxylessNAS: one sampled path trains weights, two compete for alphas (Cai et al. 2019, arXiv 1812.00332, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...space.choice import Choice, softmax_choice
from .base import RelaxationSettings, register_relaxation
from .sampling import draw_options, straight_through


class ProxylessSettings(RelaxationSettings):
    """Binary gates have no settings."""

    name: str = "proxyless"


@register_relaxation(
    "proxyless",
    settings=ProxylessSettings,
    source="Cai et al. 2019, arXiv 1812.00332, section 3.2",
    refuses="alpha gradient single_level: weights and alphas need steps of their own",
    costs="weight steps: one path; alpha steps: two",
)
class Proxyless:
    """Weight steps run one path, drawn by softmax(alpha). Alpha steps run two options a row, one of them active.

    Two options are drawn without replacement, and one is made active by the softmax q of their two alphas:
    ``dL/da_i = sum_j <dL/dout, op_j(x)> q_j (d_ij - q_i)``. The inactive output has weight 0, and no gradient passes through it.
    After the step both alphas are shifted by one amount that leaves the probabilities of all other options as they were.
    """

    needs_bilevel = True

    def __init__(self, settings: ProxylessSettings) -> None:
        self.settings = settings

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return one drawn path, without gradients of alphas; without a generator the softmax of all options."""
        if generator is None:
            return softmax_choice(rows)
        active = draw_options(rows, 1, generator)
        weights = {name: torch.zeros_like(row) for name, row in rows.items()}
        for name, (option,) in active.items():
            weights[name][option] = 1.0
        return Choice(weights, active=active)

    def judge(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return the weights of two drawn options a row: 1 of the active one, 0 of the other, with gradients of both alphas."""
        if generator is None:
            return self.weigh(rows, progress)
        active, detached, weights = draw_options(rows, 2, generator), {}, {}
        for name, row in rows.items():
            pair = torch.tensor(active[name], device=row.device)
            q = torch.softmax(row[pair], 0)
            first = len(pair) == 1 or float(torch.rand((), generator=generator)) < float(q[0].detach())
            hard = torch.zeros_like(row)
            hard[pair[0 if first else 1]] = 1.0
            weights[name] = straight_through(hard, torch.zeros_like(row).index_add(0, pair, q))
            detached[name] = tuple(active[name][1:] if first else active[name][:1])
        return Choice(weights, active=active, detached=detached)

    def after_step(self, rows: Mapping[str, Tensor], before: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> None:
        """Restore options that were not drawn, and shift the drawn ones by ``log(sum e^new / sum e^old)``."""
        for name, row in rows.items():
            drawn = moved[name]
            with torch.no_grad():
                row.copy_(torch.where(drawn, row, before[name]))
                if bool(drawn.any()):
                    row[drawn] -= torch.logsumexp(row[drawn], 0) - torch.logsumexp(before[name][drawn], 0)
