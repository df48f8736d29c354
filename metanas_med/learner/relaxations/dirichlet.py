"""DrNAS: weights of options are drawn from a Dirichlet distribution (Chen et al. 2021, arXiv 2006.10355, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.distributions import Dirichlet

from ...space.choice import Choice
from .base import RelaxationSettings, register_relaxation


class DirichletSettings(RelaxationSettings):
    """Weights from a Dirichlet distribution."""

    name: str = "dirichlet"
    partial: int = Field(default=1, ge=1)  #: K: 1/K of the channels go through a mixture, as in the paper's search


@register_relaxation("dirichlet", settings=DirichletSettings, source="Chen et al. 2021, DrNAS, arXiv 2006.10355, section 3.1")
class DirichletWeights:
    """Weights theta ~ Dirichlet(elu(alpha) + 1), with pathwise gradients; without noise their mean.

    The paper also keeps alphas near the uniform distribution: regularizer ``dirichlet_kl``. Its schedule that drops operations while
    K falls is not built: here a search has a fixed set of options.
    """

    def __init__(self, settings: DirichletSettings) -> None:
        self.settings = settings

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return drawn weights of every row; without a generator their mean."""
        concentrations = {name: F.elu(row) + 1 + 1e-6 for name, row in rows.items()}  # elu(a) + 1 is 0 far below 0
        if generator is None:
            weights = {name: row / row.sum() for name, row in concentrations.items()}
            return Choice(weights, partial=self.settings.partial)
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):  # torch's Dirichlet takes no generator
            torch.manual_seed(seed)
            weights = {name: Dirichlet(row).rsample() for name, row in concentrations.items()}
        return Choice(weights, partial=self.settings.partial)
