"""Spearman's rank correlation of two scores, also at equal cost, with bootstrap intervals over the ranked items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
#: minimum number of items: with fewer, many orders are likely by chance, and resamples repeat so many items that intervals
#: would be far too narrow
LEAST = 10


@dataclass(frozen=True)
class Estimate:
    """A value with its percentile bootstrap interval (95 % by default) and the ``number`` of items that it is based on."""

    value: float
    low: float
    high: float
    number: int


def spearman(first: ArrayLike, second: ArrayLike) -> Array:
    """Return the rank correlation of arrays (..., n) along the last axis, in [-1, 1]; ties share a rank, constants give nan."""
    return _pearson(rankdata(first, axis=-1), rankdata(second, axis=-1))


def partial_spearman(first: ArrayLike, second: ArrayLike, given: ArrayLike) -> Array:
    """Return the partial rank correlation of two arrays (..., n), controlling for ``given`` (..., n).

    The correlation of the residuals of both ranks after a linear fit to the ranks of ``given`` (Kendall 1942; Conover 1999,
    section 5.4). Nan if a residual is zero.
    """
    x, y, z = (rankdata(values, axis=-1) for values in (first, second, given))
    xy, xz, yz = _pearson(x, y), _pearson(x, z), _pearson(y, z)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (1 - xz**2) * (1 - yz**2)
        return np.where(left > 1e-12, (xy - xz * yz) / np.sqrt(np.maximum(left, 1e-12)), np.nan)


def spearman_gain(first: ArrayLike, rival: ArrayLike, judged_by: ArrayLike) -> Array:
    """Return how much better ``first`` (..., n) ranks than ``rival`` by ``judged_by``: the difference of their ``spearman``."""
    return spearman(first, judged_by) - spearman(rival, judged_by)


def _pearson(x: Array, y: Array) -> Array:
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def estimate(
    statistic: Callable[..., Array], *columns: ArrayLike, seed: int = 0, resamples: int = 4000, looks: int = 1
) -> Estimate | None:
    """Return ``statistic`` of ``columns`` (n,) each, and its interval over resamples of the n items.

    If ``looks`` such intervals are searched for one that excludes zero, each is widened so that all hold together with 95 %
    (Bonferroni).

    ``statistic`` takes arrays (..., n). Resamples for which it is undefined are left out. Returns None for fewer than ten
    items, or if the statistic of all items is undefined. Repeated items tie in a resample, which slightly lowers rank
    correlations near 1.
    """
    table = np.asarray(columns, dtype=float)
    number = table.shape[1]
    if number < LEAST:
        return None
    value = float(statistic(*table))
    if not np.isfinite(value):
        return None
    index = np.random.default_rng(seed).integers(number, size=(resamples, number))
    drawn = statistic(*(column[index] for column in table))
    low, high = np.nanpercentile(drawn, (2.5 / looks, 100 - 2.5 / looks))
    return Estimate(value, float(low), float(high), number)


def judged_choice(ranked_by: Array, judged_by: Array) -> Array:
    """Return, along the last axis of two arrays (..., n), the second score of the item with the highest first score."""
    best = np.argmax(ranked_by, axis=-1)[..., None]
    return np.take_along_axis(np.asarray(judged_by), best, axis=-1)[..., 0]


def advantage(ranked_by: Array, judged_by: Array) -> Array:
    """Return how far ``judged_choice`` is above the mean of all n items, which is the expectation of a random choice."""
    return judged_choice(ranked_by, judged_by) - np.asarray(judged_by).mean(-1)
