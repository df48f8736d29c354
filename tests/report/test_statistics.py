"""Margins and ranks compared with closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from metanas_med.report.statistics import mean_ranks, paired_margin, unpaired_margin


def test_one_draw_gives_scipys_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.05, 60)
    found = paired_margin({"set": values[None, None]}, resamples=20_000)
    other = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))
    assert found.mean == pytest.approx(values.mean(), abs=1e-12) and found.draws == 1
    assert found.low == pytest.approx(other.confidence_interval.low, abs=1e-3)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=1e-3)


def test_a_crossed_resample_has_the_variance_of_the_formula() -> None:
    """Draws and cases are resampled independently, n - 1 of n each: a bilinear form in two independent multinomials."""
    matrix = np.random.default_rng(1).normal(size=(6, 9)) + np.random.default_rng(2).normal(size=(6, 1))
    d, c = matrix.shape
    centred = matrix - matrix.mean()
    rows, columns, both = (centred.mean(1) ** 2).mean(), (centred.mean(0) ** 2).mean(), (centred**2).mean()
    n, m = d - 1, c - 1
    variance = rows / n * (1 - 1 / m) + columns / m * (1 - 1 / n) + both / (n * m)
    found = paired_margin({"set": matrix[None]}, resamples=200_000)
    assert found.high - found.low == pytest.approx(2 * stats.norm.ppf(0.975) * np.sqrt(variance), rel=0.03)


def test_intervals_have_their_coverage_if_organs_share_the_effect_of_a_draw() -> None:
    """Five organs of one data set share the effect of each support, without a true difference: eight draws give about 95 %."""
    random, covered = np.random.default_rng(3), 0
    for _ in range(200):
        luck = 0.05 * random.normal(size=(1, 8, 1))
        found = paired_margin({"set": luck + 0.03 * random.normal(size=(5, 8, 10))}, resamples=400)
        covered += found.low <= 0 <= found.high
    assert 0.86 <= covered / 200 <= 0.99


def test_the_effect_of_one_draw_is_not_evidence() -> None:
    """One of three draws is far above the others: cases alone would suggest certainty. Fewer draws never give a verdict."""
    matrix = np.repeat([[0.3], [-0.01], [-0.02]], 30, axis=1)
    assert not paired_margin({"set": matrix[None]}).beyond_noise
    assert paired_margin({"set": matrix[None]}).low < 0
    alone = paired_margin({"set": np.full((1, 1, 30), 0.2)})
    assert alone.low > 0 and not alone.beyond_noise
    two = paired_margin({"set": np.full((1, 2, 30), 0.2)})
    assert (
        two.low > 0 and two.draws == 2 and not two.beyond_noise and paired_margin({"set": np.full((1, 3, 30), 0.2)}).beyond_noise
    )
    # the data set with the fewest draws decides
    assert not paired_margin({"set": np.full((1, 2, 30), 0.2), "other": np.full((1, 3, 30), 0.2)}).beyond_noise


def test_a_higher_level_gives_scipys_wider_interval() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.05, 60)
    found = paired_margin({"set": values[None, None]}, resamples=20_000, level=0.99)
    other = stats.bootstrap(
        (values,), np.mean, confidence_level=0.99, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    assert found.low == pytest.approx(other.confidence_interval.low, abs=2e-3)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=2e-3)


def test_organs_have_equal_weight() -> None:
    found = paired_margin({"a": np.full((1, 3, 50), 0.1), "b": np.full((3, 3, 1), -0.3)})
    assert [found.mean, found.low, found.high] == pytest.approx([-0.2] * 3) and found.share == 0 and found.beyond_noise
    with pytest.raises(ValueError, match="at least one data set"):
        paired_margin({})
    with pytest.raises(ValueError, match="not finite"):
        paired_margin({"a": np.array([[[np.nan]]])})


def test_ranks_are_those_of_scipy() -> None:
    scores = {"a": [0.9, 0.5, 0.7], "b": [0.8, 0.5, 0.9], "c": [0.1, 0.6, 0.2]}
    expected = stats.rankdata(-np.array([scores[n] for n in "abc"]), axis=0).mean(1)
    assert mean_ranks(scores) == dict(zip("abc", expected, strict=True))
    with pytest.raises(ValueError, match="the same number of values"):
        mean_ranks({"a": []})


def test_unpaired_draws_have_the_variance_of_both() -> None:
    """Two independent sets of draws on one case each: the variances of the two means add up, each with n - 1 of n."""
    random = np.random.default_rng(4)
    first, second = random.normal(0.1, 1.0, (9, 1)), random.normal(0.0, 2.0, (7, 1))
    found = unpaired_margin(first, second, resamples=200_000)
    variance = first.var() / 8 + second.var() / 6
    assert found.mean == pytest.approx(first.mean() - second.mean()) and found.draws == 7
    assert found.high - found.low == pytest.approx(2 * stats.norm.ppf(0.975) * np.sqrt(variance), rel=0.05)


def test_the_difficulty_of_cases_cancels_between_unpaired_draws() -> None:
    random = np.random.default_rng(6)
    hard = random.normal(0, 1, (1, 12))
    first, second = 0.2 + hard + random.normal(0, 0.01, (4, 12)), hard + random.normal(0, 0.01, (8, 12))
    found = unpaired_margin(first, second)
    assert found.beyond_noise and found.mean == pytest.approx(0.2, abs=0.02) and found.high - found.low < 0.04
    assert found == unpaired_margin(first, second) and not unpaired_margin(first[:1], second).beyond_noise


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (2, 3))])
def test_unpaired_values_must_share_their_cases(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="of the same cases"):
        unpaired_margin(np.zeros(shapes[0]), np.zeros(shapes[1]))
    with pytest.raises(ValueError, match="not finite"):
        unpaired_margin(np.full((2, 2), np.nan), np.zeros((2, 2)))
