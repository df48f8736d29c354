"""Settings: what is ignored gives a warning, what does not fit is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from metanas_med.config.section import merged
from metanas_med.engine.settings import Settings
from metanas_med.learner import DartsSettings, FeatureSettings, SgdSettings
from metanas_med.space import SPACES, SpaceSettings

JOINT, SOFT = {"name": "single_level"}, {"name": "none"}
HALVES = {"name": "first_order", "cross_fit": False, "share": 0.25}


def darts(**given: Any) -> DartsSettings:
    return DartsSettings.model_validate(merged(DartsSettings, {}, given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"optimizer": "adam", "kernel_lr": 0.5}, "kernel_lr 0.5 has no effect: optimizer is not muon"),
        ({"alpha_gradient": HALVES | {"cross_fit": True}}, "alpha_gradient.share 0.25 has no effect: cross_fit splits the scans"),
        ({"average": 0.4, "discretizer": SOFT}, "average 0.4 has no effect: only steps after the switch"),
        ({"relaxation": {"prune": 0.2}, "alpha_gradient": JOINT}, "prune 0.2 has no effect: alpha_gradient is single_level"),
        (
            {"relaxation": {"prune": 0.2}, "alpha_gradient": HALVES, "discretizer": SOFT},
            "prune 0.2 has no effect: discretizer is none",
        ),
        ({"lr_decay": "cosine", "cooldown": 0.5}, "cooldown 0.5 has no effect: lr_decay is cosine"),
    ],
)
def test_a_setting_without_effect_gives_a_warning(given: dict, expected: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        darts(**given)
    assert expected in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        darts(optimizer="muon", kernel_lr=0.5, alpha_gradient=HALVES)
        darts(lr_decay="cooldown", cooldown=0.5)
        darts(alpha="frozen", discretizer=SOFT, average=0.4)
        darts(discretizer=SOFT, average=0.0)
        darts(alpha_gradient=HALVES, relaxation={"prune": 0.2})
        FeatureSettings(optimizer="muon", kernel_lr=0.5)
        SgdSettings(lr=0.05, steps=3, batch=4, clip=0.5, head="meta_row")
        darts()
        Settings()
    assert not caplog.text


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"alpha_gradient": JOINT | {"share": 0.25}}, "share"),
        ({"alpha_gradient": JOINT | {"cross_fit": True}}, "cross_fit"),
        ({"discretizer": SOFT | {"max_steps": 3}}, "max_steps"),
        ({"discretizer": SOFT | {"phase": 0.2}}, "phase"),
        ({"decay_steps": 100}, "decay_steps"),
    ],
)
def test_a_setting_that_the_chosen_part_lacks_is_refused(given: dict, key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        darts(**given)


@pytest.mark.parametrize("key", ["optimizer", "alpha_lr", "alpha_gradient", "average"])
def test_settings_of_darts_are_none_of_sgd(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        SgdSettings.model_validate({key: DartsSettings().model_dump()[key]})


def test_another_part_keeps_the_values_that_it_shares_and_drops_the_others() -> None:
    first = darts(alpha_gradient=HALVES)
    second = DartsSettings.model_validate(merged(DartsSettings, first.model_dump(), {"alpha_gradient": {"name": "second_order"}}))
    assert (second.alpha_gradient.name, second.alpha_gradient.share) == ("second_order", 0.25)  # type: ignore[attr-defined]
    third = DartsSettings.model_validate(merged(DartsSettings, second.model_dump(), {"alpha_gradient": JOINT}))
    assert third.alpha_gradient.model_dump() == JOINT


def test_a_kernel_rate_that_no_optimizer_uses_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        FeatureSettings(optimizer="adam", kernel_lr=0.5)
    assert "kernel_lr 0.5 has no effect: optimizer is not muon" in caplog.text


def test_a_random_architecture_is_a_discrete_one() -> None:
    with pytest.raises(ValidationError, match="it needs a discretizer"):
        darts(alpha="random", discretizer=SOFT)


def test_settings_of_made_up_volumes_give_a_warning_where_there_are_none(caplog: pytest.LogCaptureFixture) -> None:
    given = {"features": {"contrast": {"temperature": 0.1}}, "pretext": {"synthesis": {"organs": 0}}}
    with caplog.at_level(logging.WARNING):
        Settings.model_validate({**given, "phases": [{"share": 1, "mix": {"features": 1, "synthesis": 1}}]})
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        Settings.model_validate({**given, "phases": [{"share": 1, "mix": {"features": 1}}]})
    assert "features.contrast has no effect" in caplog.text and "pretext.synthesis has no effect" in caplog.text


def test_alphas_of_feature_steps_that_ignore_other_settings_give_warnings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Settings.model_validate({"features": {"alpha_lr": 0.03}})
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        learner = {"alpha": "frozen", "regularizers": [{"name": "cost", "weight": 1.0}]}
        Settings.model_validate({"features": {"alpha_lr": 0.03}, "learner": learner})
    assert "features.alpha_lr 0.03 has no effect: learner.alpha is not adapt" in caplog.text
    assert "learner.regularizers do not reach the alphas of feature steps" in caplog.text


def test_a_part_of_another_name_does_not_inherit_a_setting_of_another_type() -> None:
    """``flat`` is a number in one space and a list in another: the list's default holds."""

    class Listed(SpaceSettings):
        name: str = "listed"
        flat: tuple[int, ...] = (4,)
        most_flat: int = 0

    with SPACES.extended():
        SPACES.register("listed", settings=Listed)(lambda settings: None)
        below = {"space": {"name": "fewshot", "flat": 1, "most_flat": 1}}
        found = merged(Settings, below, {"space": {"name": "listed", "base_width": 6}})["space"]
        space = Listed.model_validate(found)
    assert "flat" not in found and space.flat == (4,)
    assert found["most_flat"] == 1 and space.base_width == 6
