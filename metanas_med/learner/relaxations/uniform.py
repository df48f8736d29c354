"""Single path: one option a row, drawn uniformly (Guo et al. 2020, SPOS, arXiv 1904.00420), or with strict fairness (FairNAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...space.choice import Choice, softmax_choice
from .base import RelaxationSettings, register_relaxation


class UniformSettings(RelaxationSettings):
    """How paths are drawn."""

    name: str = "uniform"
    fair: bool = False  #: strict fairness: as many paths a step as the longest row has options, each option exactly once


@register_relaxation(
    "uniform",
    settings=UniformSettings,
    source="Guo et al. 2020, arXiv 1904.00420; strict fairness: Chu et al. 2021, FairNAS, arXiv 1907.01845",
    refuses="discretizers that read alphas: they stay where they are",
    costs="one path a step; with fair as many as the longest row has options",
)
class Uniform:
    """One path a step, uniformly drawn; alphas get no gradient, so a discretizer that compares networks has to choose.

    ``fair``: a weight step takes m paths, m the options of the longest row. In them each option of that row runs exactly once, and
    options of shorter rows take turns. Gradients are summed, then weights step once (FairNAS, section 3.2).
    """

    moves_alphas = False

    def __init__(self, settings: UniformSettings) -> None:
        self.settings = settings

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return one uniformly drawn option a row; without a generator the softmax of all."""
        if generator is None:
            return softmax_choice(rows)
        return _path(rows, {name: int(torch.randint(row.numel(), (), generator=generator)) for name, row in rows.items()})

    def paths(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator) -> Sequence[Choice]:
        """Return the paths of one weight step."""
        if not self.settings.fair:
            return [self.weigh(rows, progress, generator)]
        number = max(row.numel() for row in rows.values())
        orders = {name: torch.randperm(row.numel(), generator=generator).tolist() for name, row in rows.items()}
        return [_path(rows, {name: order[step % len(order)] for name, order in orders.items()}) for step in range(number)]


def _path(rows: Mapping[str, Tensor], options: Mapping[str, int]) -> Choice:
    """Return the choice that runs one option a row."""
    weights = {name: torch.zeros_like(row) for name, row in rows.items()}
    for name, option in options.items():
        weights[name][option] = 1.0
    return Choice(weights, active={name: (option,) for name, option in options.items()})
