"""Reptile (Nichol et al. 2018, arXiv 1803.02999, algorithm 1) on two named groups: weights and row-centred alphas.

``w += beta_w * mean_i(w_i - w)`` and, for each architecture row, ``a += beta_a * mean_i(center(a_i) - center(a))``
(METANAS, Elsken et al. 2020, arXiv 1911.11090, equation 6). Pure arithmetic: named tensors in, named tensors out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import MetaSettings
from .registry import register_meta

Tensors = Mapping[str, Tensor]


def center_row(row: Tensor) -> Tensor:
    """Return an architecture row with zero mean: softmax does not see a row's mean, so it must not be averaged over tasks."""
    return row - row.mean()


def commit_row(row: Tensor, margin: float) -> Tensor:
    """Return a centred row whose largest entry leads all others, which are equal, by ``margin``."""
    chosen = torch.zeros_like(row)
    chosen[int(row.argmax())] = margin
    return center_row(chosen)


class MeanDifference:
    """``mean_i(end_i - start)`` by name; a name that an end lacks counts as not moved there.

    Differences are summed in float64, so the mean does not depend on the order of tasks beyond rounding of one float32. Ends are
    added one by one: of a large network, those of a whole meta-batch need not be in memory at once.
    """

    def __init__(self, start: Tensors) -> None:
        self.start, self.count = start, 0
        self._total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}

    def add(self, end: Tensors) -> None:
        """Take the state of one more task in."""
        self.count += 1
        for name, value in self.start.items():
            if name in end:
                self._total[name] += end[name].double() - value.double()

    def mean(self) -> dict[str, Tensor]:
        """Return the mean over what was added, in the precision of the start; zero when nothing was."""
        return {name: (total / max(self.count, 1)).to(self.start[name].dtype) for name, total in self._total.items()}


def interpolate(start: Tensors, difference: Tensors, rate: float) -> dict[str, Tensor]:
    """Return ``start + rate * difference`` by name."""
    return {name: value + rate * difference[name] for name, value in start.items()}


@dataclass(frozen=True)
class MetaState:
    """What is meta-learned: ``weights`` and ``alphas`` by name, detached."""

    weights: dict[str, Tensor]
    alphas: dict[str, Tensor]


@register_meta("reptile")
class Reptile:
    """The outer step, with own rates for weights and alphas that decay linearly to ``final_beta`` of their start."""

    def __init__(self, settings: MetaSettings) -> None:
        self.settings = settings

    def rates(self, progress: float) -> tuple[float, float]:
        """Return (beta_w, beta_a) at ``progress`` in [0, 1]; beta_a is 0 during the weights-only warm-up."""
        s = self.settings
        decay = 1.0 - (1.0 - s.final_beta) * min(max(progress, 0.0), 1.0)
        return s.beta_weights * decay, 0.0 if progress < s.warmup else s.beta_alphas * decay

    def step(self, state: MetaState, ends: Iterable[MetaState], progress: float) -> MetaState:
        """Return the meta state after one iteration over the adapted states ``ends``, taken one by one; no ends, no move."""
        beta_w, beta_a = self.rates(progress)
        start = {n: center_row(a) for n, a in state.alphas.items()}
        weights, alphas = MeanDifference(state.weights), MeanDifference(start)
        for end in ends:
            weights.add(end.weights)
            alphas.add({n: center_row(a) for n, a in end.alphas.items()})
        if not weights.count:
            return state
        return MetaState(interpolate(state.weights, weights.mean(), beta_w), interpolate(start, alphas.mean(), beta_a))
