"""Which rows a search has decided: against simulated paths whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from metanas_med.learner.evidence import LEAST_MOMENTS, NOT_APART, Trail, apart_line, told_apart, undecided


def walk(options: int, moments: int, seed: int, drift: float = 0.0) -> torch.Tensor:
    """Return a random walk (moments, options) with steps of 1; option 0 drifts by ``drift`` a step."""
    steps = np.random.default_rng(seed).normal(size=(moments - 1, options))
    steps[:, 0] += drift
    return torch.from_numpy(np.concatenate([np.zeros((1, options)), steps.cumsum(0)]))


@pytest.mark.parametrize("options", [2, 3, 4, 8])
@pytest.mark.parametrize("moments", [11, 60])
def test_few_random_walks_look_decided(options: int, moments: int) -> None:
    found = sum(told_apart(walk(options, moments, seed)) for seed in range(200))
    assert found <= 0.1 * 200


@pytest.mark.parametrize("options", [2, 4, 8])
def test_a_drift_larger_than_its_noise_is_found(options: int) -> None:
    assert sum(told_apart(walk(options, 60, seed, drift=3.0)) for seed in range(20)) >= 18


def test_a_lead_that_stays_is_found_and_one_that_vanishes_is_not() -> None:
    time = torch.linspace(0, 1, 40)[:, None]
    noise = 0.01 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    one = torch.tensor([[1.0, 0.0, 0.0]])
    assert told_apart((1 - (-8 * time).exp()) * one + noise)
    assert not told_apart(4 * time * (1 - time) * one * (time < 0.5) + noise)


def test_two_options_that_lead_together_are_not_told_apart() -> None:
    """The third is left behind by both, but neither of the two leads."""
    time = torch.linspace(0, 1, 40)[:, None]
    noise = 0.05 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    both = time * torch.tensor([[1.0, 1.0, -2.0]]) + noise
    assert not told_apart(both) and told_apart(both[:, [0, 2]])


def test_only_movement_counts() -> None:
    """A committed row that does not move is no evidence, and neither is a lead too small to matter."""
    start = torch.tensor([[0.9, -0.1, -0.1]])
    assert not told_apart(start.expand(20, 3))
    time = torch.linspace(0, 1, 20)[:, None]
    assert told_apart(start + time * torch.tensor([[0.0, 1.0, 0.0]]))  # it leads less than before, but it was learned
    assert not told_apart(start + 0.05 * time * torch.tensor([[0.0, 1.0, 0.0]]))


def test_order_mean_and_scale_of_options_do_not_matter() -> None:
    path = walk(4, 30, 3, drift=3.0)
    assert told_apart(path) == told_apart(path.flip(1)) == told_apart(path + path.roll(1, 0).mean(1, keepdim=True))
    assert told_apart(path) == told_apart(100 * path)


def test_short_paths_decide_nothing_and_a_row_of_one_option_is_decided() -> None:
    rising = torch.linspace(0, 9, LEAST_MOMENTS)[:, None] * torch.tensor([[1.0, 0.0]])
    assert told_apart(rising) and not told_apart(rising[1:])
    assert told_apart(torch.zeros(3, 1))
    assert undecided({"a": rising, "b": rising[1:]}) == ["b"]


def test_a_trail_is_bounded_and_survives_json() -> None:
    trail, again = Trail(), Trail()
    for moment in range(300):
        trail.add({"row": torch.tensor([moment / 7, 0.0])})
        again = Trail.from_json(json.loads(json.dumps(again.to_json())))
        again.add({"row": torch.tensor([moment / 7, 0.0])})
    assert again.to_json() == trail.to_json() and len(trail.moments) <= Trail.MOST
    path = trail.paths()["row"][:, 0]
    assert path[0] == 0 and (path.diff() > 0).all() and path[-1] > 0.8 * 299 / 7
    assert told_apart(trail.paths()["row"])


def test_the_sentence() -> None:
    assert apart_line([], 3) == "alpha: the options of all 3 row(s) can be told apart"
    assert apart_line(["a", "b"], 3) == f"alpha: in 2 of 3 row(s) {NOT_APART}: a, b"
    assert apart_line(list("abcdef"), 9).endswith("a, b, c, d and 2 more")
