"""The inner problem is a pure function: its arguments decide the result, wherever and however often it is solved."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med import l2l
from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.engine.settings import Settings
from metanas_med.engine.solve import Job, Solver, run_job
from metanas_med.engine.state import build_network, meta_state
from metanas_med.launch import build_launcher
from metanas_med.learner import Runtime, SgdSettings
from metanas_med.meta import MetaState, Update
from metanas_med.tasks.episode import Episode, make_episode
from metanas_med.tasks.organ import task_of

SEED = (1, 2, 3, 0)


@pytest.fixture(scope="module")
def settings(tiny_settings: Callable[..., Settings]) -> Settings:
    return tiny_settings()


@pytest.fixture(scope="module")
def pair(phantom_cache: Path) -> CachedDataset:
    return open_cache(phantom_cache / "Phantom06_Pair.h5")


def episode_of(settings: Settings, data: CachedDataset, organ: str = "all", number: int = 2) -> Episode:
    names = [case.name for case in data.cases][:number]
    return make_episode(data, task_of(data.name, data.labels, organ), names, [], settings.plan, settings.space.levels)


def solver_of(settings: Settings, **given: Any) -> Solver:
    return Solver(settings.space, settings.seed, settings.learner, settings.plan, Runtime(), **given)


def start_of(settings: Settings) -> MetaState:
    return meta_state(build_network(settings.space, settings.seed))


def same_state(one: MetaState | None, other: MetaState | None) -> bool:
    assert one is not None and other is not None
    pairs = ((one.weights, other.weights), (one.alphas, other.alphas))
    return all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)


def same(one: Update, other: Update) -> bool:
    return one.losses == other.losses and one.key == other.key and same_state(one.end, other.end)


def test_the_same_arguments_give_the_same_bits_in_any_order(settings: Settings, pair: CachedDataset) -> None:
    solve, state = solver_of(settings), start_of(settings)
    both, left = episode_of(settings, pair), episode_of(settings, pair, "left", 1)
    first = solve(state, both, SEED)
    other = solve(state, left, SEED)
    again = solve(state, both, SEED)
    assert same(first, again) and not same_state(first.end, other.end)
    alone = solver_of(settings)(state, left, SEED)
    assert same(other, alone)
    assert not same_state(first.end, solve(state, both, (1, 2, 3, 1)).end)  # another seed
    assert same_state(state, start_of(settings))  # what was given is not changed
    assert first.key == f"{pair.name}/all" or first.key.startswith(pair.name)
    assert first.report["alpha"] == "adapt" and len(first.losses) == 2 and first.gradient is None and not first.bad


def test_alphas_and_weights_of_the_end_are_all_that_is_meta_learned(settings: Settings, pair: CachedDataset) -> None:
    discrete = settings.adapt  # ends with a discrete network, which has no alphas
    found = solver_of(settings).with_learner(discrete)(start_of(settings), episode_of(settings, pair), SEED)
    start = start_of(settings)
    assert found.end is not None and found.report["genotype"]
    assert found.end.weights.keys() == start.weights.keys() and found.end.alphas.keys() == start.alphas.keys()
    assert any(not torch.equal(a, start.alphas[n]) for n, a in found.end.alphas.items())


def test_a_job_gives_the_same_bits_in_another_process(settings: Settings, pair: CachedDataset) -> None:
    solve, state, episode = solver_of(settings), start_of(settings), episode_of(settings, pair)
    here = solve(state, episode, SEED)
    sent = pickle.loads(pickle.dumps(solve))
    assert sent == solve and same(sent(state, episode, SEED), here)
    assert len(pickle.dumps(solve)) < 20_000  # the network that it keeps is not sent
    (there,) = build_launcher("processes", 1).map(run_job, [Job(solve, state, episode, SEED)])
    assert same(there, here)


def test_a_task_whose_loss_is_not_finite_says_why(settings: Settings, pair: CachedDataset) -> None:
    episode = episode_of(settings, pair)
    spoiled = [replace(volume, image=torch.full_like(torch.as_tensor(volume.image), torch.nan)) for volume in episode.support]
    solve, state = solver_of(settings), start_of(settings)
    found = solve(state, replace(episode, support=spoiled), SEED)
    assert found.end is None and "not a number" in found.bad and found.key == episode.task.key and found.losses == ()
    assert same(solve(state, episode, SEED), solver_of(settings)(state, episode, SEED))  # the next task does not see it


@pytest.mark.skipif(not l2l.has_learn2learn(), reason="learn2learn is not installed")
@pytest.mark.learn2learn
def test_a_query_gradient_comes_where_it_is_asked_for(settings: Settings, pair: CachedDataset) -> None:
    learner = SgdSettings(steps=1, batch=1, ridge_voxels=60)
    solve = replace(solver_of(settings, query_gradient="first_order"), learner=learner)
    state, episode = start_of(settings), episode_of(settings, pair)
    found = solve(state, episode, SEED)
    assert found.gradient is not None and found.gradient.keys() == state.weights.keys()
    assert same_state(found.end, state)  # the query gradient leaves the state as it was
    assert replace(solve, query_gradient="")(state, episode, SEED).gradient is None
