"""Rank correlations compared with SciPy and with a regression of ranks; intervals; choices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from metanas_med.report.correlation import advantage, estimate, judged_choice, partial_spearman, spearman, spearman_gain


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_equals_scipys(ties: bool) -> None:
    random = np.random.default_rng(0)
    for number in (4, 9, 60):
        x, y = random.normal(size=(2, 5, number))
        if ties:
            x, y = np.round(x), np.round(y + x)
        expected = [np.asarray(spearmanr(a, b))[0] for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(spearman(x, y), expected, atol=1e-12)


def test_partial_spearman_is_the_correlation_of_residuals_of_ranks() -> None:
    random = np.random.default_rng(1)
    z = random.normal(size=50)
    x, y = np.exp(z) + random.normal(size=50), -z + random.normal(size=50)
    ranks = [rankdata(v) for v in (x, y, z)]
    design = np.stack([ranks[2], np.ones(50)], 1)
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    assert float(partial_spearman(x, y, z)) == pytest.approx(np.corrcoef(left[0], left[1])[0, 1], abs=1e-12)


def test_partial_spearman_removes_a_common_cause() -> None:
    random = np.random.default_rng(2)
    size = random.normal(size=400)
    x, y = size + 0.3 * random.normal(size=400), size + 0.3 * random.normal(size=400)
    assert float(spearman(x, y)) > 0.8
    assert abs(float(partial_spearman(x, y, size))) < 0.15
    assert np.isnan(partial_spearman(x, size, size))  # nothing is left


def test_intervals_cover_the_true_value_and_narrow_with_more_items() -> None:
    random = np.random.default_rng(3)
    widths, hits = [], 0
    for number in (15, 60):
        found = 0
        for _ in range(30):
            x = random.normal(size=number)
            y = x + random.normal(size=number)
            part = estimate(spearman, x, y, resamples=400)
            assert part is not None and part.low <= part.value <= part.high and part.number == number
            found += part.low <= 0.69 <= part.high  # 6 / pi asin(r / 2) at r = 1 / sqrt(2)
            widths.append((number, part.high - part.low))
        hits += found
    assert hits >= 50
    assert np.mean([w for n, w in widths if n == 60]) < 0.7 * np.mean([w for n, w in widths if n == 15])


def test_a_gain_uses_the_same_resamples_for_both() -> None:
    random = np.random.default_rng(4)
    truth = random.normal(size=60)
    shared = truth + random.normal(size=60)
    near, far = shared + 0.1 * random.normal(size=60), shared + 0.4 * random.normal(size=60)
    value = np.asarray(spearmanr(near, truth))[0] - np.asarray(spearmanr(far, truth))[0]
    found, alone = estimate(spearman_gain, near, far, truth), estimate(spearman, near, truth)
    assert found is not None and alone is not None and found.value == pytest.approx(value, abs=1e-12)
    assert found.high - found.low < 0.7 * (alone.high - alone.low)  # shared variation cancels
    level = estimate(spearman_gain, near, near, truth)
    assert level is not None and (level.value, level.low, level.high) == (0.0, 0.0, 0.0)


def test_intervals_are_wider_for_several_looks() -> None:
    x, y = np.random.default_rng(5).normal(size=(2, 30))
    drawn = spearman(*np.stack([x, y])[:, np.random.default_rng(0).integers(30, size=(4000, 30))])
    found = estimate(spearman, x, y, looks=5)
    assert found is not None and (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (0.5, 99.5))))


def test_an_undefined_estimate_is_none() -> None:
    few, enough = np.arange(9.0), np.arange(10.0)
    assert estimate(spearman, few, few) is None  # with few items all resamples may agree: an interval of width zero
    assert estimate(spearman, np.ones(10), enough) is None
    assert estimate(spearman, enough, 2 * enough) is not None


def test_a_choice_is_evaluated_by_another_score() -> None:
    ranked, judged = np.array([0.1, 0.9, 0.5]), np.array([0.7, 0.6, 0.2])
    assert float(judged_choice(ranked, judged)) == 0.6
    assert float(advantage(ranked, judged)) == pytest.approx(0.1)
    both = judged_choice(np.stack([ranked, -ranked]), np.stack([judged, judged]))
    np.testing.assert_array_equal(both, [0.6, 0.7])
