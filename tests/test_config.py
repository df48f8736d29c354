"""Settings: what is ignored is told."""

from __future__ import annotations

import logging

import pytest
from pydantic import ValidationError

from metanas_med.engine.settings import Settings
from metanas_med.learner import FeatureSettings, LearnerSettings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kernel_lr": 0.5}, "kernel_lr 0.5 has no effect: optimizer is not muon"),
        ({"alpha_share": 0.25}, "alpha_share 0.25 has no effect: cross_fit halves the scans"),
        ({"alpha_share": 0.25, "bilevel": False}, "alpha_share 0.25 has no effect: bilevel is off"),
        ({"average": 0.5, "discretize": False}, "average 0.5 has no effect: every step is before a switch that never comes"),
        ({"prune": 0.2, "bilevel": False}, "prune 0.2 has no effect: bilevel is off"),
        ({"second_order": True, "bilevel": False}, "second_order True has no effect: bilevel is off"),
        ({"cooldown": 0.5}, "cooldown 0.5 has no effect: lr_decay is cosine"),
        ({"prune": 0.2, "discretize": False}, "prune 0.2 has no effect: discretize is off"),
        ({"alpha_steps": 3, "discretize": False}, "alpha_steps 3 has no effect: discretize is off"),
        ({"alpha_phase": 0.2, "discretize": False}, "alpha_phase 0.2 has no effect: discretize is off"),
        ({"name": "fomaml", "optimizer": "muon"}, "optimizer muon has no effect: fomaml takes plain gradient steps"),
        ({"name": "fomaml", "alpha_lr": 0.1}, "alpha_lr 0.1 has no effect: fomaml takes plain gradient steps"),
    ],
)
def test_a_setting_without_effect_is_told(given: dict, told: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        LearnerSettings(**given)
    assert told in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        LearnerSettings(optimizer="muon", kernel_lr=0.5, cross_fit=False, alpha_share=0.25)
        LearnerSettings(lr_decay="cooldown", cooldown=0.5)
        LearnerSettings(alpha="frozen", discretize=False, average=0.5)
        FeatureSettings(optimizer="muon", kernel_lr=0.5)
        LearnerSettings(name="fomaml", lr=0.05, steps=3, batch=4, clip=0.5, head="meta_row", alpha="frozen")
        LearnerSettings()
    assert not caplog.text


def test_a_rate_of_kernels_that_nothing_steps_by_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        FeatureSettings(kernel_lr=0.5)
    assert "kernel_lr 0.5 has no effect: optimizer is not muon" in caplog.text


def test_a_setting_that_went_is_forgotten_where_it_was_off_and_refused_where_it_was_on() -> None:
    assert LearnerSettings.model_validate({"decay_steps": 0, "steps": 7}) == LearnerSettings(steps=7)
    with pytest.raises(ValidationError, match="decay_steps"):
        LearnerSettings.model_validate({"decay_steps": 100})


def test_a_random_architecture_is_a_discrete_one() -> None:
    with pytest.raises(ValidationError, match="it needs discretize"):
        LearnerSettings(alpha="random", discretize=False)


def test_alphas_of_feature_steps_that_go_by_other_settings_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Settings.model_validate({"features": {"first": 0.2, "alpha_lr": 0.02}})
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        Settings.model_validate(
            {"features": {"first": 0.2, "alpha_lr": 0.02}, "learner": {"alpha": "frozen", "cost_weight": 1.0}}
        )
    assert "features.alpha_lr 0.02 has no effect: learner.alpha is frozen" in caplog.text
    assert "learner.cost_weight 1.0 does not reach the alphas of feature steps" in caplog.text
