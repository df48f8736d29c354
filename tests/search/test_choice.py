"""Choices by scores: regret, ties, the value of the best corrected for noise, leads by one standard error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metanas_med.search.choice import best_in_hindsight, chance_of_lead, chosen_value, one_standard_error, regret


def test_a_lead_is_one_standard_error_of_paired_differences() -> None:
    differences = [0.03, 0.01, 0.05, -0.01, 0.02]
    mean, se, leads = one_standard_error(differences)
    assert mean == pytest.approx(0.02) and se == pytest.approx(float(stats.sem(differences))) and leads
    assert one_standard_error([0.1, -0.08, 0.02]).leads is False  # mean 0.013, standard error 0.052
    assert one_standard_error([-0.1, -0.1, -0.1]).leads is False
    assert one_standard_error([0.1, 0.1]) == (pytest.approx(0.1), 0.0, True)
    assert one_standard_error([0.0, 0.0]).leads is False  # equal is no lead


def test_one_difference_never_leads() -> None:
    assert one_standard_error([0.4]) == (0.4, math.inf, False)


@pytest.mark.parametrize("bad", [[], [0.1, math.nan], [math.inf]])
def test_differences_that_say_nothing_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite difference"):
        one_standard_error(bad)


@pytest.mark.parametrize("number", [2, 5, 10])
def test_noise_leads_as_often_as_its_closed_form_says(number: int) -> None:
    noise = np.random.default_rng(0).normal(size=(4000, number))
    share = np.mean([one_standard_error(row).leads for row in noise])
    assert share == pytest.approx(chance_of_lead(number), abs=0.02)
    assert chance_of_lead(5) == pytest.approx(0.187, abs=1e-3) and chance_of_lead(1) == 0


def test_regret_is_the_distance_of_the_chosen_from_the_best() -> None:
    values = [0.7, 0.8, 0.75]
    assert regret(values, [1, 2, 3]) == pytest.approx(0.05)
    assert regret(values, values) == 0
    assert regret(values, [5, 5, 1]) == pytest.approx(0.05)  # one of the first two, by chance
    assert regret(values, [0, 0, 0]) == pytest.approx(0.05)  # the mean of all
    assert regret([values, values[::-1]], [[1, 2, 3], [1, 2, 3]]) == pytest.approx([0.05, 0.1])


def test_a_score_of_nan_is_never_chosen() -> None:
    assert chosen_value([0.1, 0.2, 0.3], [math.nan, -math.inf, math.nan]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="all scores are nan"):
        regret([[0.1, 0.2], [0.1, 0.2]], [[1, 2], [math.nan, math.nan]])


def test_values_and_scores_must_match() -> None:
    with pytest.raises(ValueError, match="as many values as scores"):
        regret([0.1, 0.2], [1, 2, 3])
    with pytest.raises(ValueError, match="not finite"):
        regret([0.1, math.nan], [1, 2])


def test_a_second_run_corrects_the_best_for_noise() -> None:
    draws = np.random.default_rng(0)
    first, second = draws.normal(size=(2, 2000, 16))  # nothing but noise: no item is better than another
    assert abs(best_in_hindsight(first, second).mean()) < 0.03 < 1.5 < first.max(-1).mean()
    truth = np.linspace(0, 1, 16)
    assert best_in_hindsight(truth, truth) == 1
