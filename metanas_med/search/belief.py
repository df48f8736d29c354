"""Beliefs about the gains of configurations: what other organs said, joined with scores and measurements on a new one.

Everything is normal and in closed form. A gain is the Dice of a configuration minus that of the default. Combining scores is no
``Score``: it needs the scores of all configurations and what was seen on other organs, not a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Belief:
    """Independent normal beliefs about the gains (Dice) of C configurations: ``mean`` (C,) and ``variance`` (C,), above 0.

    The default has mean 0 and, where its gain is certain, variance 0.
    """

    mean: Array
    variance: Array

    def measured(self, gains: ArrayLike, variances: ArrayLike) -> Belief:
        """Return the belief after unbiased measurements ``gains`` (C,) with error ``variances`` (C,).

        Precision-weighted: ``1/v' = 1/v + 1/r`` and ``m' = (m r + g v) / (v + r)``. A configuration that was not measured has a gain of
        nan, or an infinite variance, and keeps its belief. Raises ValueError for a negative variance.
        """
        y, r = (np.broadcast_to(np.asarray(values, dtype=float), self.mean.shape) for values in (gains, variances))
        if (r < 0).any():
            raise ValueError("a variance is negative")
        known = np.isfinite(y) & np.isfinite(r) & (self.variance + r > 0)
        share = np.where(known, self.variance / np.where(known, self.variance + r, 1.0), 0.0)  # weight of the measurement
        mean = self.mean + share * (np.where(known, y, 0.0) - self.mean) * known
        return Belief(mean, self.variance * (1 - share))

    def scored(self, scores: ArrayLike, correlation: float, spread: float) -> Belief:
        """Return the belief after a score of all configurations (C,) on this task.

        ``correlation``: of score and gain within a task, measured on other organs; ``spread``: the standard deviation of gains among
        configurations within a task, in Dice. Model: the standardised score is ``z = rho (g - g0) / spread + sqrt(1 - rho^2) e``, with e
        standard normal and g0 the mean gain, for which the mean of ``self.mean`` is taken. So ``g0 + spread z / rho`` is an unbiased
        measurement of g with variance ``spread^2 (1 / rho^2 - 1)``. Under a prior N(g0, spread^2) the posterior mean is the
        regression of gains on scores, ``g0 + rho spread z``. Errors of several scores are taken to be independent.

        Scores of nan say nothing; minus infinity counts as the lowest finite score. A correlation of 0 or less, or equal scores,
        change nothing.
        """
        values = np.asarray(scores, dtype=float)
        if values.shape != self.mean.shape:
            raise ValueError(f"expected {len(self.mean)} scores, found an array of {values.shape}")
        if not -1 <= correlation <= 1 or not spread >= 0:
            raise ValueError(f"expected a correlation in [-1, 1] and a spread of 0 or more, found {correlation} and {spread}")
        z = standardised(values)
        if correlation <= 0 or spread == 0 or not np.nan_to_num(z).any():
            return self
        return self.measured(self.mean.mean() + spread * z / correlation, spread**2 * (1 / correlation**2 - 1))

    def best(self, least: float = 0.0) -> int:
        """Return the configuration with the largest mean less ``least`` standard deviations.

        That is the first, the default, unless this bound is above the default's mean.
        """
        bounds = self.mean - least * np.sqrt(self.variance)
        top = int(np.argmax(bounds))
        return top if bounds[top] > self.mean[0] else 0


def standardised(scores: ArrayLike) -> Array:
    """Return ``scores`` (C,) with mean 0 and standard deviation 1 among those that are not nan; zeros if they are all equal.

    Minus infinity counts as the lowest finite score, plus infinity as the highest.
    """
    values = np.array(scores, dtype=float)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.where(np.isnan(values), np.nan, 0.0)
    values = np.where(np.isnan(values), np.nan, np.clip(values, finite.min(), finite.max()))
    spread = np.nanstd(values)
    # equal numbers may differ from their mean by rounding
    return (values - np.nanmean(values)) / spread if spread > 1e-12 * max(abs(finite).max(), 1e-300) else values * 0.0


def belief_of(gains: Sequence[ArrayLike]) -> Belief:
    """Return what the gains on other organs say about a new one. ``gains``: for each organ (C,), nan where it was not measured.

    Model: gain (organ, c) ~ N(mu_c, s^2) and mu_c ~ N(0, t^2), so that means are shrunk to the default. By moments, s^2 is the variance
    within configurations, pooled, and t^2 the mean square of their mean gains less what s^2 explains, at least 0. A configuration
    that was measured on n organs has ``mean = b x mean gain`` with ``b = t^2 / (t^2 + s^2 / n)``, and a new organ's gain the variance
    ``s^2 + b s^2 / n``. The first configuration is the default: mean 0, variance 0. Raises ValueError for fewer than two organs, or a
    default with gains other than 0.
    """
    table = np.array([np.asarray(row, dtype=float) for row in gains])
    if table.ndim != 2 or len(table) < 2:
        raise ValueError("expected the gains of two organs or more, one row each")
    if np.nansum(np.abs(table[:, 0])):
        raise ValueError("the first configuration must be the default, whose gains are 0")
    known = np.isfinite(table[:, 1:])
    n = known.sum(0)
    means = np.where(known, table[:, 1:], 0.0).sum(0) / np.maximum(n, 1)
    squares = np.where(known, table[:, 1:] - means, 0.0) ** 2
    within = squares.sum() / max(int((n - 1).clip(0).sum()), 1)
    seen = n > 0
    between = max(float((means[seen] ** 2 - within / n[seen]).mean()), 0.0) if seen.any() else 0.0
    share = np.where(seen, between / np.maximum(between + within / np.maximum(n, 1), 1e-300), 0.0)
    # of a configuration that was never measured only N(0, t^2) is known
    extra = np.where(seen, share * within / np.maximum(n, 1), between)
    return Belief(np.concatenate([[0.0], share * means]), np.concatenate([[0.0], within + extra]))
