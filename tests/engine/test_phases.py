"""Phases of a meta-training: which learner runs when, on which settings, at which rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.engine.phases import Phase, Phases, features_around, kinds_of, share_of
from metanas_med.engine.settings import load_settings
from metanas_med.errors import ConfigError
from metanas_med.learner import DartsSettings, SgdSettings
from metanas_med.meta import MetaState, ReptileSettings

LEARNER = DartsSettings()


def phases(
    first: float = 0.0,
    last: float = 0.0,
    warmup: float = 0.0,
    commit: float = 1.0,
    learner: Any = LEARNER,
    committed: bool = False,
) -> Phases:
    meta = ReptileSettings(warmup=warmup, commit=commit, commit_margin=2.0)
    return Phases(features_around(first, last), meta, learner, committed)


def of_features(run: Phases, progress: float) -> bool:
    return run.kind(progress, np.random.default_rng(0)) == "features"


def state() -> MetaState:
    return MetaState({"w": torch.ones(2)}, {"row": torch.tensor([0.3, 0.1, -0.4])})


def test_the_phases_of_a_whole_run() -> None:
    """Of ten iterations: two warm up, of which one is of features; two search; from half on the discrete network's features learn."""
    run, seen, now = phases(first=0.1, last=0.5, warmup=0.2, commit=0.5), [], state()
    for iteration in range(10):
        progress = iteration / 10
        now = run.commit(now, progress)
        learner = run.task_learner(progress)
        assert isinstance(learner, DartsSettings)
        seen.append(
            (
                "features" if of_features(run, progress) else "task learner",
                learner.alpha,
                learner.soft,
                run.searches_features(progress),
            )
        )
    assert seen == [
        ("features", "frozen", True, False),
        ("task learner", "frozen", True, False),
        *[("task learner", "adapt", False, True)] * 3,
        *[("features", "frozen", False, False)] * 5,
    ]


def test_the_commitment_is_made_once_and_decides_every_row() -> None:
    run, start = phases(commit=0.4), state()
    assert run.commit(start, 0.39) is start and not run.committed
    decided = run.commit(start, 0.4)
    assert run.committed and decided.weights is start.weights
    torch.testing.assert_close(decided.alphas["row"], torch.tensor([4 / 3, -2 / 3, -2 / 3]))
    assert run.commit(start, 0.9) is start  # alphas that move later are not reset
    assert phases(commit=0.4, committed=True).commit(start, 0.9) is start  # as after a resume
    never = phases(commit=1.0)
    assert never.commit(start, 1.0) is start and not never.committed


def test_a_warm_up_comes_before_a_commitment() -> None:
    run = phases(warmup=0.5, commit=0.2)
    run.commit(state(), 0.3)
    early, late = run.task_learner(0.3), run.task_learner(0.5)
    assert isinstance(early, DartsSettings) and isinstance(late, DartsSettings)
    assert run.committed and early.soft and early.alpha == "frozen" and not late.soft and late.alpha == "frozen"


@pytest.mark.parametrize("alpha", ["frozen", "random"])
def test_features_do_not_search_where_the_learner_keeps_alphas(alpha: str) -> None:
    kept = phases(learner=LEARNER.model_copy(update={"alpha": alpha}))
    assert not kept.searches_features(0.5) and phases().searches_features(0.5)


def test_a_task_learner_without_alphas_is_the_same_in_every_phase() -> None:
    sgd = SgdSettings()
    run = phases(warmup=0.5, commit=0.5, learner=sgd)
    run.commit(state(), 0.6)
    assert run.task_learner(0.0) is sgd and run.task_learner(0.6) is sgd


@pytest.mark.parametrize("share", [0.05 * n for n in range(1, 20)] + [0.7, 0.85])
def test_shares_of_a_run_are_whole_numbers_of_iterations(share: float) -> None:
    """0.7 of 600 is 420, whatever the rounding of 1 - 0.7 is."""
    run = phases(last=share)
    assert sum(of_features(run, i / 600) for i in range(600)) == round(share * 600)


def test_the_rate_of_features_is_constant_at_first_and_falls_by_a_cosine_at_the_end() -> None:
    run = phases(first=0.3, last=0.5)
    assert [run.feature_rate(p) for p in (0.0, 0.2, 0.5)] == [1.0] * 3
    assert run.feature_rate(0.75) == pytest.approx(0.01 + 0.99 / 2) and run.feature_rate(1.0) == pytest.approx(0.01)
    assert run.feature_rate(0.625) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 4)))
    only_first = phases(first=0.4)
    assert [only_first.feature_rate(p) for p in (0.0, 0.2, 0.4)] == pytest.approx([1.0, 0.505, 0.01])


def test_a_phase_draws_its_kinds_by_their_weights() -> None:
    recipe = (Phase(share=0.5, mix={"synthesis": 1}), Phase(share=0.5, mix={"features": 3, "synthesis": 1}))
    run = Phases(recipe, ReptileSettings(), LEARNER)
    assert {run.kind(0.3, np.random.default_rng(n)) for n in range(40)} == {"synthesis"}
    kinds = [run.kind(0.7, np.random.default_rng(n)) for n in range(400)]
    assert set(kinds) == {"features", "synthesis"} and 0.7 < kinds.count("features") / 400 < 0.8
    assert kinds == [run.kind(0.7, np.random.default_rng(n)) for n in range(400)]
    assert run.kind(1.0, np.random.default_rng(0)) in ("features", "synthesis")  # the end belongs to the last phase
    assert share_of(recipe, "synthesis") == pytest.approx(0.625) and kinds_of(recipe) == {"features", "synthesis"}


def test_the_rate_falls_in_the_last_phase_with_feature_steps() -> None:
    recipe = (Phase(share=0.4, mix={"synthesis": 1}), Phase(share=0.4, mix={"features": 1}), Phase(share=0.2, mix={"tasks": 1}))
    run = Phases(recipe, ReptileSettings(), LEARNER)
    assert run.feature_rate(0.2) == run.feature_rate(0.4) == 1.0
    assert run.feature_rate(0.6) == pytest.approx(0.505) and run.feature_rate(0.8) == pytest.approx(0.01)
    assert run.kind(0.8, np.random.default_rng(0)) == "tasks"


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (
            "[{share: 0.4, mix: {features: 1}}, {share: 0.5, mix: {tasks: 1}}]",
            r"the shares of the 2 phase\(s\) add up to 0.9, expected 1",
        ),
        ("[{share: 0.7, mix: {features: 1}}, {share: 0.7, mix: {tasks: 1}}]", "add up to 1.4, expected 1"),
        ("[]", r"the shares of the 0 phase\(s\) add up to 0, expected 1"),
        ("[{share: 0, mix: {features: 1}}, {share: 1, mix: {tasks: 1}}]", "phases.0.share: .* greater than 0"),
        ("[{share: 1, mix: {}}]", "phases.0.mix: .* at least 1 item"),
        ("[{share: 1, mix: {feature: 1}}]", "phases.0.mix.feature.*: .*'features', 'synthesis' or 'tasks'"),
        ("[{share: 1, mix: {features: 0}}]", "phases.0.mix.features: .* greater than 0"),
        ("[{share: 1, mix: {features: .nan}}]", "phases.0.mix.features: .*finite number"),
        ("[{share: 1}]", "phases.0.mix: .*required"),
        ("{share: 1, mix: {features: 1}}", "phases: expected a list"),
        ("[{share: 1, mix: {features: 1}, steps: 3}]", "unknown setting 'phases.0.steps'"),
    ],
)
def test_a_recipe_that_does_not_add_up_is_refused(recipe: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_settings(None, ["--phases", recipe])
