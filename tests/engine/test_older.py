"""Settings of older checkpoints load and mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from metanas_med.engine.checkpoint import load_state, save_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.older import learner_of_today, settings_of_today
from metanas_med.engine.phases import features_around
from metanas_med.engine.settings import Settings
from metanas_med.errors import CheckpointError
from metanas_med.learner import DartsSettings, SgdSettings
from metanas_med.learner.alpha_gradients import FirstOrderSettings, SecondOrderSettings, SingleLevelSettings
from metanas_med.learner.discretizers import ArgmaxSettings, NoneSettings
from metanas_med.learner.regularizers import CostSettings
from metanas_med.learner.relaxations import SoftmaxSettings
from metanas_med.meta import FomamlSettings, ReptileSettings
from metanas_med.space import UNetSettings, UNetSupernetSettings

#: a task learner's settings as checkpoints held them when all were in one section
LEARNER: dict[str, Any] = {
    "name": "darts",
    "steps": 20,
    "batch": 2,
    "optimizer": "adam",
    "lr": 2e-3,
    "kernel_lr": 2e-2,
    "head_lr": 3e-3,
    "lr_decay": "cosine",
    "cooldown": 0.3,
    "average": 0.0,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 0.0,
    "clip": 1.0,
    "alpha": "adapt",
    "alpha_lr": 0.05,
    "alpha_decay": 1e-3,
    "alpha_every": 1,
    "bilevel": True,
    "second_order": False,
    "cross_fit": True,
    "alpha_share": 0.5,
    "alpha_phase": 0.25,
    "alpha_steps": 7,
    "discretize": True,
    "tau_start": 0.8,
    "tau_end": 0.1,
    "prune": 0.02,
    "cost_weight": 0.0,
    "cost_budget": 1.0,
    "head": "closed_form",
    "ridge_voxels": 3000,
    "loss": "dice_ce",
}
SPACE: dict[str, Any] = {
    "name": "unet_supernet",
    "dims": 3,
    "base_width": 2,
    "max_width": 4,
    "levels": 3,
    "nodes": [1],
    "candidates": ["conv333", "identity"],
    "coarse_candidates": ["max_pool"],
    "coarse_from": 2,
    "search_skips": True,
    "search_residual": True,
    "search_depth": True,
    "edge": "merged",
}
META: dict[str, Any] = {
    "name": "reptile",
    "iterations": 500,
    "batch": 4,
    "beta_weights": 1.0,
    "beta_alphas": 0.7,
    "final_beta": 0.1,
}
FEATURES: dict[str, Any] = {"head": "closed_form", "first": 0.2, "last": 0.0, "steps": 3, "alpha_lr": 0.0, "diversity": 0.0}


def note(learner: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    own = LEARNER | (learner or {})
    return {"seed": 3, "space": SPACE, "learner": own, "adapt": LEARNER, "meta": META, "features": FEATURES} | changes


def read(**given: Any) -> Settings:
    return Settings.model_validate(settings_of_today(note(**given)))


def test_a_bilevel_search() -> None:
    found = read().learner
    assert isinstance(found, DartsSettings)
    assert found.alpha_gradient == FirstOrderSettings(cross_fit=True, share=0.5)
    assert found.relaxation == SoftmaxSettings(tau_start=0.8, tau_end=0.1, prune=0.02)
    assert found.discretizer == ArgmaxSettings(phase=0.25, max_steps=7) and found.regularizers == ()
    kept = LEARNER.keys() & DartsSettings.model_fields.keys()
    assert len(kept) == 20 and all(getattr(found, key) == LEARNER[key] for key in kept)


@pytest.mark.parametrize(
    ("old", "part", "expected"),
    [
        ({"bilevel": False}, "alpha_gradient", SingleLevelSettings()),
        ({"bilevel": False, "second_order": True}, "alpha_gradient", SingleLevelSettings()),
        ({"second_order": True, "cross_fit": False}, "alpha_gradient", SecondOrderSettings(cross_fit=False)),
        ({"cross_fit": False, "alpha_share": 0.25}, "alpha_gradient", FirstOrderSettings(cross_fit=False, share=0.25)),
        ({"discretize": False}, "discretizer", NoneSettings()),
        ({"cost_weight": 2.0, "cost_budget": 0.5}, "regularizers", (CostSettings(weight=2.0, budget=0.5),)),
        ({"alpha": "frozen"}, "alpha", "frozen"),
    ],
)
def test_each_choice_has_its_part_today(old: dict[str, Any], part: str, expected: Any) -> None:
    assert getattr(read(learner=old).learner, part) == expected


def test_fomaml_was_a_task_learner_and_is_a_meta_learner() -> None:
    found = read(learner={"name": "fomaml", "steps": 4, "lr": 0.01, "tau_start": 0.6})
    assert isinstance(found.learner, SgdSettings) and isinstance(found.meta, FomamlSettings)
    assert (found.learner.steps, found.learner.batch, found.learner.lr, found.learner.clip) == (4, 2, 0.01, 1.0)
    assert found.learner.relaxation.tau_start == 0.6 and found.meta.beta_weights == 1.0  # type: ignore[attr-defined]
    assert isinstance(found.adapt, DartsSettings)


def test_a_plain_network_held_settings_of_the_supernet() -> None:
    found = read(space=SPACE | {"name": "unet"})
    assert isinstance(found.space, UNetSettings) and found.space.base_width == 2 and found.space.levels == 3
    searched = read()
    assert isinstance(searched.space, UNetSupernetSettings) and searched.space.candidates == ("conv333", "identity")


@pytest.mark.parametrize(("head", "solved"), [("closed_form", True), ("meta_row", False)])
def test_features_had_two_settings_of_the_task_learner(head: str, solved: bool) -> None:
    found = read(learner={"head": head}).features
    assert found.head_lr == 3e-3 and found.solve_new is solved


@pytest.mark.parametrize(("first", "last"), [(0.2, 0.0), (0.3, 0.6), (0.0, 0.0), (1.0, 0.0), (0.7, 0.7)])
def test_shares_of_features_became_a_recipe(first: float, last: float) -> None:
    found = read(features=FEATURES | {"first": first, "last": last}).phases
    assert found == features_around(first, last) and sum(phase.share for phase in found) == pytest.approx(1)
    assert [set(phase.mix) for phase in read(features={"steps": 3}).phases] == [{"features"}, {"tasks"}, {"features"}]


def test_rates_of_the_meta_learner_stay() -> None:
    found = read().meta
    assert isinstance(found, ReptileSettings) and (found.beta_weights, found.beta_alphas, found.final_beta) == (1.0, 0.7, 0.1)


def test_a_setting_that_was_removed_is_forgotten_where_it_was_off_and_refused_where_it_was_on() -> None:
    assert learner_of_today(LEARNER | {"decay_steps": 0}) == learner_of_today(LEARNER)
    with pytest.raises(ValidationError, match="decay_steps"):
        read(learner={"decay_steps": 100})


def test_settings_of_today_are_kept_as_they_are() -> None:
    today = read().model_dump(mode="json")
    assert settings_of_today(today) == today
    assert Settings.model_validate(json.loads(json.dumps(today))) == read()


def test_settings_below_another_section_are_read_too() -> None:
    """A study holds those of its runs under ``run``, and of training from scratch under ``train``."""
    found = settings_of_today({"run": note(), "train": LEARNER, "draws": 2})
    assert Settings.model_validate(found["run"]) == read() and found["draws"] == 2
    assert DartsSettings.model_validate(found["train"]) == read().adapt


def test_an_older_checkpoint_loads(tiny_run: Path, tmp_path: Path) -> None:
    tensors, own = load_state(tiny_run, "last", "meta-state")
    space = own["settings"]["space"]
    for name, settings in (("old", note(space=space)), ("odd", note(space=space, learner={"decay_steps": 3}))):
        kept = {key: value for key, value in own.items() if key not in ("sha256", "kind", "format", "code")}
        save_state(tmp_path / name, "last", "meta-state", tensors, kept | {"settings": settings})
    run = MetaRun.load(tmp_path / "old")
    assert all(torch.equal(w, tensors[f"weights.{n}"]) for n, w in run.state.weights.items())
    assert run.settings.learner == read().learner
    with pytest.raises(CheckpointError, match="cannot be used .*decay_steps"):
        MetaRun.load(tmp_path / "odd")
