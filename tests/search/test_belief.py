"""Beliefs about gains: Bayes' rule on a grid, regression, shrinkage by simulated organs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metanas_med.search.belief import Belief, belief_of, standardised


def belief(mean: list[float], variance: list[float]) -> Belief:
    return Belief(np.array(mean), np.array(variance))


def test_a_measurement_is_joined_by_bayes_rule() -> None:
    before = belief([0.0, 0.01, -0.02], [0.0, 4e-4, 1e-4])
    after = before.measured([0.3, 0.05, math.nan], [1e-4, 9e-4, 1e-4])
    grid = np.linspace(-0.3, 0.3, 20001)
    density = np.exp(-((grid - 0.01) ** 2) / 8e-4 - (grid - 0.05) ** 2 / 18e-4)
    density /= density.sum()
    mean = (grid * density).sum()
    assert after.mean == pytest.approx([0.0, mean, -0.02])  # the default is certain, the last was not measured
    assert after.variance == pytest.approx([0.0, ((grid - mean) ** 2 * density).sum(), 1e-4])
    assert before.measured(0.5, math.inf).mean == pytest.approx(before.mean)
    with pytest.raises(ValueError, match="negative"):
        before.measured(0.0, -1.0)


def test_under_an_equal_prior_a_score_gives_its_regression() -> None:
    scores, rho, spread = [3.0, 1.0, 2.0, 6.0], 0.6, 0.04
    after = belief([0.01] * 4, [spread**2] * 4).scored(scores, rho, spread)
    assert after.mean == pytest.approx(0.01 + rho * spread * standardised(scores))
    assert after.variance == pytest.approx(spread**2 * (1 - rho**2))


def test_a_perfect_score_decides_and_a_useless_one_says_nothing() -> None:
    before = belief([0.0, 0.02, 0.01], [1e-4, 1e-4, 1e-4])
    scores = [1.0, 2.0, 3.0]
    assert before.scored(scores, 1.0, 0.03).mean == pytest.approx(0.01 + 0.03 * standardised(scores))
    for correlation in (0.0, -0.5):
        assert before.scored(scores, correlation, 0.03) is before
    assert before.scored([5.0, 5.0, 5.0], 0.5, 0.03) is before
    with pytest.raises(ValueError, match="expected 3 scores"):
        before.scored([1.0], 0.5, 0.03)
    with pytest.raises(ValueError, match="correlation"):
        before.scored(scores, 1.5, 0.03)


def test_the_belief_after_a_score_is_calibrated_in_simulated_tasks() -> None:
    random = np.random.default_rng(0)
    spread, rho, errors, shares = 0.04, 0.7, [], []
    prior = belief([0.0] * 64, [spread**2] * 64)
    for _ in range(300):
        gains = random.normal(0, spread, 64)
        scores = rho * gains / spread + math.sqrt(1 - rho**2) * random.normal(size=64)
        after = prior.scored(scores, rho, spread)
        errors.append(np.mean((after.mean - gains) ** 2))
        shares.append(np.mean(np.abs(after.mean - gains) < 1.96 * np.sqrt(after.variance)))
    assert np.mean(errors) == pytest.approx(spread**2 * (1 - rho**2), rel=0.08) and np.mean(shares) == pytest.approx(
        0.95, abs=0.01
    )


def test_scores_that_are_not_finite() -> None:
    assert standardised([1.0, 3.0, -math.inf]) == pytest.approx([-math.sqrt(0.5), math.sqrt(2), -math.sqrt(0.5)])
    found = standardised([1.0, math.nan, 3.0])
    assert found[[0, 2]] == pytest.approx([-1, 1]) and math.isnan(found[1])
    assert standardised([0.1 + 0.2, 0.3, 0.3]).tolist() == [0, 0, 0]
    assert standardised([-math.inf, -math.inf]).tolist() == [0, 0]
    before = belief([0.0, 0.1, 0.2], [1.0, 1.0, 1.0])
    assert before.scored([1.0, math.nan, 3.0], 0.5, 1.0).mean[1] == 0.1


def test_the_default_is_left_only_for_a_lead() -> None:
    found = belief([0.0, 0.02, 0.03], [0.0, 1e-4, 16e-4])
    assert found.best() == 2 and found.best(least=1.0) == 1 and found.best(least=3.0) == 0
    assert belief([0.0, -0.1], [0.0, 1e-4]).best() == 0


def test_what_other_organs_said_is_shrunk_to_the_default() -> None:
    gains = [[0.0, 0.02, 0.04, math.nan], [0.0, 0.04, -0.02, math.nan]]
    found = belief_of(gains)
    within = (2 * 0.01**2 + 2 * 0.03**2) / 2
    between = max((0.03**2 + 0.01**2) / 2 - within / 2, 0.0)
    share = between / (between + within / 2)
    assert found.mean == pytest.approx([0, 0.03 * share, 0.01 * share, 0])
    assert found.variance == pytest.approx([0, within * (1 + share / 2), within * (1 + share / 2), within + between])


def test_the_belief_from_other_organs_is_calibrated_in_simulated_organs() -> None:
    random = np.random.default_rng(1)
    between, within, inside, better = 0.03, 0.04, [], []
    for _ in range(300):
        centres = np.concatenate([[0.0], random.normal(0, between, 31)])
        organs = np.concatenate([np.zeros((7, 1)), random.normal(centres[1:], within, (7, 31))], 1)
        found = belief_of(list(organs[:6]))
        inside.append(np.mean(np.abs(organs[6] - found.mean)[1:] < 1.96 * np.sqrt(found.variance[1:])))
        better.append(np.mean((organs[6] - organs[:6].mean(0)) ** 2) - np.mean((organs[6] - found.mean) ** 2))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01) and np.mean(better) > 0


@pytest.mark.parametrize(("gains", "message"), [([[0.0, 0.1]], "two organs"), ([[0.1, 0.2], [0.0, 0.1]], "must be the default")])
def test_gains_that_cannot_be_used(gains: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        belief_of(gains)
