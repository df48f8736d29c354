"""Reptile (Nichol et al. 2018, arXiv 1803.02999, algorithm 1) on two named groups: weights and row-centred alphas.

``w += beta_w * mean_i(w_i - w)`` and, for each architecture row, ``a += beta_a * mean_i(center(a_i) - center(a))``
(METANAS, Elsken et al. 2020, arXiv 1911.11090, equation 6). Pure arithmetic: named tensors in, named tensors out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from .base import MetaSettings, MetaState, Update, register_meta

Tensors = Mapping[str, Tensor]


def center_row(row: Tensor) -> Tensor:
    """Return an architecture row with zero mean: softmax ignores a row's mean, so it must not be averaged over tasks."""
    return row - row.mean()


def commit_row(row: Tensor, margin: float) -> Tensor:
    """Return a centred row whose largest entry leads all others, which are equal, by ``margin``."""
    chosen = torch.zeros_like(row)
    chosen[int(row.argmax())] = margin
    return center_row(chosen)


class MeanDifference:
    """``mean_i(end_i - start)`` by name; a name missing from an end counts as unchanged there.

    Differences are summed in float64, so the order of tasks changes the mean by at most one float32 rounding. Ends are added one
    by one, so that the ends of a meta-batch need not be in memory together.
    """

    def __init__(self, start: Tensors) -> None:
        self.start, self.count = start, 0
        self._total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}

    def add(self, end: Tensors) -> None:
        """Add the end of one more task."""
        self.count += 1
        for name, value in self.start.items():
            if name in end:
                self._total[name] += end[name].double() - value.double()

    def mean(self) -> dict[str, Tensor]:
        """Return the mean over all added ends, in the precision of the start; zero without any."""
        return {name: (total / max(self.count, 1)).to(self.start[name].dtype) for name, total in self._total.items()}


def interpolate(start: Tensors, difference: Tensors, rate: float) -> dict[str, Tensor]:
    """Return ``start + rate * difference`` by name."""
    return {name: value + rate * difference[name] for name, value in start.items()}


class OuterSettings(MetaSettings):
    """Step sizes that decay linearly."""

    beta_weights: float = Field(default=0.2, gt=0)  #: step size of the weights
    final_beta: float = Field(default=0.1, ge=0, le=1)  #: step sizes decay linearly to this share

    def decay(self, progress: float) -> float:
        """Return the factor of the step sizes at ``progress`` in [0, 1]."""
        return 1.0 - (1.0 - self.final_beta) * min(max(progress, 0.0), 1.0)


class ReptileSettings(OuterSettings):
    """Steps towards the mean of the adapted states."""

    name: str = "reptile"
    beta_alphas: float = Field(default=0.6, gt=0)  #: step size of the alphas, centred by row


@register_meta("reptile", settings=ReptileSettings, source="Nichol et al. 2018, arXiv 1803.02999, algorithm 1")
class Reptile:
    """A step towards the mean of the adapted states, with separate step sizes for weights and alphas."""

    needs_query = False
    query_gradient = ""

    def __init__(self, settings: ReptileSettings) -> None:
        self.settings = settings

    def rates(self, progress: float) -> dict[str, float]:
        """Return the step sizes at ``progress`` in [0, 1]."""
        s = self.settings
        return {"beta_weights": s.beta_weights * s.decay(progress), "beta_alphas": s.beta_alphas * s.decay(progress)}

    def step(self, state: MetaState, updates: Iterable[Update], progress: float) -> MetaState:
        """Return the meta state after one iteration over ``updates``, taken one by one; without updates it does not move."""
        rates = self.rates(progress)
        start = {n: center_row(a) for n, a in state.alphas.items()}
        weights, alphas = MeanDifference(state.weights), MeanDifference(start)
        for update in updates:
            if update.end is not None:
                weights.add(update.end.weights)
                alphas.add({n: center_row(a) for n, a in update.end.alphas.items()})
        if not weights.count:
            return state
        return MetaState(
            interpolate(state.weights, weights.mean(), rates["beta_weights"]),
            interpolate(start, alphas.mean(), rates["beta_alphas"]),
        )
