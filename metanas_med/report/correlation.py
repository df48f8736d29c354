"""Do two scores rank alike? Spearman's rank correlation, the same at equal cost, and bootstrap intervals over what is ranked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
#: fewer things than this are not ranked: many orders of them are likely by chance, and resamples of a few repeat so much that an interval,
#: one of no width even, would look like evidence
LEAST = 10


@dataclass(frozen=True)
class Estimate:
    """A value with its percentile bootstrap interval (of 95 % unless asked otherwise); ``number``: how many things it rests on."""

    value: float
    low: float
    high: float
    number: int


def spearman(first: ArrayLike, second: ArrayLike) -> Array:
    """Return the rank correlation of two arrays (..., n) along the last axis, in [-1, 1]; ties share a rank, nan where one is constant."""
    return _pearson(rankdata(first, axis=-1), rankdata(second, axis=-1))


def partial_spearman(first: ArrayLike, second: ArrayLike, given: ArrayLike) -> Array:
    """Return the rank correlation of two arrays (..., n) that is left when both are compared at equal ``given`` (..., n).

    The correlation of what is left of both ranks after a linear fit to the ranks of ``given`` (Kendall 1942; Conover 1999, section 5.4). Nan where
    nothing is left.
    """
    x, y, z = (rankdata(values, axis=-1) for values in (first, second, given))
    xy, xz, yz = _pearson(x, y), _pearson(x, z), _pearson(y, z)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (1 - xz**2) * (1 - yz**2)
        return np.where(left > 1e-12, (xy - xz * yz) / np.sqrt(np.maximum(left, 1e-12)), np.nan)


def spearman_gain(first: ArrayLike, rival: ArrayLike, judged_by: ArrayLike) -> Array:
    """Return by how much better ``first`` (..., n) ranks as ``judged_by`` does than ``rival`` does: the difference of both ``spearman``."""
    return spearman(first, judged_by) - spearman(rival, judged_by)


def _pearson(x: Array, y: Array) -> Array:
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def estimate(
    statistic: Callable[..., Array], *columns: ArrayLike, seed: int = 0, resamples: int = 4000, looks: int = 1
) -> Estimate | None:
    """Return ``statistic`` of ``columns`` (n,) each, and the interval over resamples of the n things they describe.

    Where ``looks`` such intervals are searched for one that leaves out zero, each is so wide that all of them hold with 95 % (Bonferroni).

    ``statistic`` takes arrays (..., n). Resamples for which it is not defined are left out. None for fewer than ten things, or where it is not
    defined for all of them. Repeated things tie in a resample, which draws rank correlations near 1 a little down.
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
    """Return, along the last axis of two arrays (..., n), what the thing that leads by the first has of the second."""
    best = np.argmax(ranked_by, axis=-1)[..., None]
    return np.take_along_axis(np.asarray(judged_by), best, axis=-1)[..., 0]


def advantage(ranked_by: Array, judged_by: Array) -> Array:
    """Return how far the choice of ``judged_choice`` lies above the mean of all n things, which a random choice has on average."""
    return judged_choice(ranked_by, judged_by) - np.asarray(judged_by).mean(-1)
