"""Comparison of methods: mean differences with intervals (paired bootstrap over draws and cases), and mean ranks over organs.

Two methods are compared on the same support draws and query cases. The support of a draw affects all its cases, and all
organs that were adapted together. So draws and cases are resampled as a crossed design, in the same way for all organs of a
data set. Resampling cases alone, or each organ separately, would treat the effect of one support set as evidence. Resamples
have one item fewer than the sample, which makes the variance of a mean unbiased (Rao and Wu 1988, doi
10.1080/01621459.1988.10478591); with three draws the interval is still slightly too narrow. The intervals do not cover
variance that is not resampled, such as that between meta-training seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
#: minimum number of draws for a verdict: with two, an interval is based on the single difference between them
MIN_DRAWS = 3


@dataclass(frozen=True)
class Margin:
    """A mean difference with its interval, the ``share`` of resamples above zero, and the numbers of ``draws`` and ``organs``."""

    mean: float
    low: float
    high: float
    share: float
    draws: int
    organs: int = 1

    @property
    def beyond_noise(self) -> bool:
        """Return whether the interval excludes zero; always False for fewer than three draws, which are too few to tell."""
        return self.draws >= MIN_DRAWS and (self.low > 0 or self.high < 0)


def paired_margin(differences: Mapping[str, Array], seed: int = 0, resamples: int = 4000, level: float = 0.95) -> Margin:
    """Return the margin over organs of ``differences``: by data set, Dice (organs, draws, cases) of one method minus another.

    All organs have the same weight; ``level`` is that of the interval. Results with the same supports and cases belong into
    one array. Raises ValueError if there is no value, or if a value is not finite.
    """
    if not differences or any(m.ndim != 3 or m.size == 0 for m in differences.values()):
        raise ValueError("expected at least one data set, each with an array (organs, draws, cases)")
    if not all(np.isfinite(m).all() for m in differences.values()):
        raise ValueError("a difference is not finite: both methods need a value for every organ, draw and case")
    random = np.random.default_rng(seed)
    num_organs = sum(len(m) for m in differences.values())
    means = np.zeros(resamples)
    for name in sorted(differences):
        whole = differences[name].sum(0) / num_organs  # organs share draws and cases
        taken = [_resample(random, size, resamples) for size in whole.shape]
        # the mean over a crossed resample is bilinear in the counts of draws and cases
        means += np.einsum("rd,dc,rc->r", taken[0], whole, taken[1])
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    mean = sum(float(m.mean((1, 2)).sum()) for m in differences.values()) / num_organs
    draws = min(m.shape[1] for m in differences.values())
    return Margin(mean, float(low), float(high), float((means > 0).mean()), draws, num_organs)


def unpaired_margin(first: Array, second: Array, seed: int = 0, resamples: int = 4000) -> Margin:
    """Return the margin of ``first`` (draws, cases) over ``second`` (other draws, the same cases), Dice, for unpaired draws.

    The draws of each and the shared cases are resampled independently. Raises ValueError for shapes that do not match, or if
    a value is not finite.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size or not second.size:
        raise ValueError(f"expected two arrays (draws, cases) of the same cases, found {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a value is not finite: every draw needs one for every case")
    random = np.random.default_rng(seed)
    cases = _resample(random, first.shape[1], resamples)
    ours, others = (
        np.einsum("rd,dc,rc->r", _resample(random, len(part), resamples), part, cases, optimize=True) for part in (first, second)
    )
    means = ours - others
    low, high = np.percentile(means, (2.5, 97.5))
    draws = min(len(first), len(second))
    return Margin(float(first.mean() - second.mean()), float(low), float(high), float((means > 0).mean()), draws)


def mean_ranks(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean rank of each method in ``scores`` (one value per organ, higher is better); 1 is best, ties share a rank."""
    names = sorted(scores)
    table = np.array([scores[name] for name in names], dtype=float)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError("expected the same number of values, one per organ, for every method")
    ranks = rankdata(-table, axis=0)
    return {name: float(rank) for name, rank in zip(names, ranks.mean(axis=1), strict=True)}


def _resample(random: np.random.Generator, size: int, resamples: int) -> Array:
    """Return (resamples, size): the share of each of ``size`` entries in each resample of size - 1 of them."""
    number = max(size - 1, 1)
    index = random.integers(size, size=(resamples, number)) + size * np.arange(resamples)[:, None]
    return np.bincount(index.ravel(), minlength=size * resamples).reshape(resamples, size) / number
