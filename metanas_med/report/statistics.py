"""Who wins, by how much, and whether that is more than noise: paired bootstrap over draws and cases, ranks over organs.

Two methods are compared on the same support draws and query cases. A draw's support decides all of its cases at once, so draws and
cases are resampled as a crossed design: resampling cases alone would take the luck of a support set for evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Margin:
    """A mean difference with its 95 % interval; ``share``: of resamples in which it was above zero."""

    mean: float
    low: float
    high: float
    share: float

    @property
    def beyond_noise(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_margin(differences: Mapping[str, Matrix], seed: int = 0, resamples: int = 4000) -> Margin:
    """Return the margin over organs of ``differences``: by organ, a matrix (draws, cases) of Dice of one method minus the other.

    Every organ counts alike. Raises ValueError where nothing, or a value that is not finite, is given.
    """
    if not differences or any(m.ndim != 2 or m.size == 0 for m in differences.values()):
        raise ValueError("expected at least one organ, each with a matrix (draws, cases)")
    if not all(np.isfinite(m).all() for m in differences.values()):
        raise ValueError("a difference is not finite: both methods need a value for every draw and case")
    random = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for name in sorted(differences):
        matrix = differences[name]
        draws, cases = matrix.shape
        rows = random.integers(draws, size=(resamples, draws))
        columns = random.integers(cases, size=(resamples, cases))
        # the mean over a crossed resample is bilinear in how often each draw and each case was taken
        taken_rows = _counts(rows, draws) / draws
        taken_columns = _counts(columns, cases) / cases
        means += np.einsum("rd,dc,rc->r", taken_rows, matrix, taken_columns) / len(differences)
    low, high = np.percentile(means, (2.5, 97.5))
    mean = float(np.mean([m.mean() for m in differences.values()]))
    return Margin(mean, float(low), float(high), float((means > 0).mean()))


def mean_ranks(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean rank by method of ``scores``: by method, one value an organ, higher is better; 1 is best, ties share a rank."""
    names = sorted(scores)
    table = np.array([scores[name] for name in names], dtype=float)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError("expected as many values, one an organ, of every method")
    ranks = rankdata(-table, axis=0)
    return {name: float(rank) for name, rank in zip(names, ranks.mean(axis=1), strict=True)}


def _counts(index: NDArray[np.int64], size: int) -> Matrix:
    """Return (resamples, size): how often each of ``size`` entries stands in each row of ``index``."""
    resamples = len(index)
    flat = index + size * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=size * resamples).reshape(resamples, size).astype(float)
