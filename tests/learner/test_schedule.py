"""Rates by step."""

from __future__ import annotations

import math

import pytest

from metanas_med.learner import DartsSettings
from metanas_med.learner.schedule import rate_factor


def test_rates_fall_by_a_cosine_to_a_twentieth() -> None:
    own = DartsSettings(steps=20, lr_decay="cosine")
    assert [rate_factor(step, own) for step in (0, 10)] == pytest.approx([1.0, 0.5])
    assert rate_factor(19, own) == 0.05
    assert rate_factor(50, DartsSettings(steps=200, lr_decay="cosine")) == pytest.approx(0.5 + 0.25 * math.sqrt(2))
    assert rate_factor(19, DartsSettings(steps=20, lr_decay="none")) == 1.0


def test_a_cooldown_keeps_the_rates_and_lets_the_last_ones_fall_linearly() -> None:
    s = DartsSettings(steps=10, lr_decay="cooldown", cooldown=0.4)
    assert [rate_factor(step, s) for step in range(10)] == pytest.approx([1.0] * 6 + [0.8, 0.6, 0.4, 0.2])
    whole = DartsSettings(steps=3, lr_decay="cooldown", cooldown=1.0)
    assert [rate_factor(step, whole) for step in range(3)] == pytest.approx([0.75, 0.5, 0.25])
    assert rate_factor(0, DartsSettings(steps=1, lr_decay="cooldown", cooldown=0.1)) == 0.5  # one step falls at least
