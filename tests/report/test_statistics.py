"""Margins and ranks against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from metanas_med.report.statistics import mean_ranks, paired_margin


def test_one_draw_gives_scipys_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.05, 40)
    found = paired_margin({"organ": values[None]}, resamples=20_000)
    other = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    assert found.low == pytest.approx(other.confidence_interval.low, abs=1e-3)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=1e-3)


def test_a_crossed_resample_has_the_variance_of_the_formula() -> None:
    """Rows and columns resampled independently: Var = sum over draws, cases and residuals (Owen 2007, theorem 1)."""
    matrix = np.random.default_rng(1).normal(size=(6, 9)) + np.random.default_rng(2).normal(size=(6, 1))
    d, c = matrix.shape
    centred = matrix - matrix.mean()
    rows, columns = centred.mean(1), centred.mean(0)
    both = (centred**2).mean()
    variance = (rows**2).mean() / d * (1 - 1 / c) + (columns**2).mean() / c * (1 - 1 / d) + both / (d * c)
    found = paired_margin({"organ": matrix}, resamples=200_000)
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.03)


def test_luck_of_a_draw_is_not_taken_for_evidence() -> None:
    """Three draws, of which one is far above: cases alone would call it sure."""
    matrix = np.repeat([[0.3], [-0.01], [-0.02]], 30, axis=1)
    assert not paired_margin({"organ": matrix}).beyond_noise
    assert paired_margin({"organ": matrix.reshape(1, -1)}).beyond_noise


def test_organs_count_alike_and_one_value_is_sure() -> None:
    found = paired_margin({"a": np.full((2, 50), 0.1), "b": np.full((1, 1), -0.3)})
    assert [found.mean, found.low, found.high] == pytest.approx([-0.1] * 3) and found.share == 0 and found.beyond_noise
    with pytest.raises(ValueError, match="at least one organ"):
        paired_margin({})
    with pytest.raises(ValueError, match="not finite"):
        paired_margin({"a": np.array([[np.nan]])})


def test_ranks_are_those_of_scipy() -> None:
    scores = {"a": [0.9, 0.5, 0.7], "b": [0.8, 0.5, 0.9], "c": [0.1, 0.6, 0.2]}
    expected = stats.rankdata(-np.array([scores[n] for n in "abc"]), axis=0).mean(1)
    assert mean_ranks(scores) == dict(zip("abc", expected, strict=True))
    with pytest.raises(ValueError, match="as many values"):
        mean_ranks({"a": []})
