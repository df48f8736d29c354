"""What a choice by a score costs, and when a lead is more than noise. Rank correlations are in ``report/correlation.py``."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

Array = NDArray[np.float64]


class Lead(NamedTuple):
    """The ``mean`` of paired differences, its standard error ``se``, and whether it ``leads`` by one standard error or more."""

    mean: float
    se: float
    leads: bool


def one_standard_error(differences: ArrayLike) -> Lead:
    """Return the lead of a challenger: ``differences`` (n,) are its values minus those of the default, one for each scan.

    ``se`` is the sample standard deviation (n - 1) over the square root of n. The challenger leads if the mean is above zero and at
    least ``se``. One difference has an infinite ``se``, so it never leads. For a true difference of zero and five scans, noise
    alone leads with a probability of 0.19 (``chance_of_lead``). Raises ValueError without a difference, or if one is not finite.
    """
    values = np.asarray(differences, dtype=float).ravel()
    if not values.size or not np.isfinite(values).all():
        raise ValueError("expected one finite difference or more, one for each scan that both were judged on")
    mean = float(values.mean())
    se = float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.inf
    return Lead(mean, se, mean > 0 and mean >= se)


def chance_of_lead(number: int) -> float:
    """Return the probability that ``number`` normal differences of mean zero lead by one standard error: P(t >= 1), n - 1 degrees."""
    return float(stdtr(number - 1, -1.0)) if number > 1 else 0.0


def chosen_value(values: ArrayLike, scores: ArrayLike) -> Array:
    """Return, along the last axis of two arrays (..., n), the value of the item with the highest score.

    Items that share the highest score count equally: the result is the expectation of a random choice among them. An item with a
    score of nan is never chosen. Raises ValueError if shapes differ, a value is not finite, or all scores of a row are nan.
    """
    judged, ranked = np.asarray(values, dtype=float), np.asarray(scores, dtype=float)
    if judged.shape != ranked.shape or not judged.size:
        raise ValueError(f"expected as many values as scores, found arrays of {judged.shape} and {ranked.shape}")
    if not np.isfinite(judged).all():
        raise ValueError("a value is not finite")
    if np.isnan(ranked).all(-1).any():
        raise ValueError("all scores are nan: nothing can be chosen")
    top = np.fmax.reduce(ranked, axis=-1, keepdims=True)
    best = ranked == top  # nan is never equal
    return (judged * best).sum(-1) / best.sum(-1)


def regret(values: ArrayLike, scores: ArrayLike) -> Array:
    """Return how far the choice by the highest of ``scores`` (..., n) is below the best of ``values`` (..., n), 0 or more.

    Ties and nan are treated as in ``chosen_value``. The best of noisy values is too high, for every score alike. Values of a second
    run show by how much (``best_in_hindsight``).
    """
    return np.asarray(values, dtype=float).max(-1) - chosen_value(values, scores)


def best_in_hindsight(first: ArrayLike, second: ArrayLike) -> Array:
    """Return the value of the best item, corrected for noise by a second run of the same items: arrays (..., n).

    The best item of each run is judged by the other run, and both are averaged. The maximum of one run would be too high. This
    estimate errs on the low side, because noise also decides which item is chosen.
    """
    return (chosen_value(second, first) + chosen_value(first, second)) / 2
