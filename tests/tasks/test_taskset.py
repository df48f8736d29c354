"""The task distribution as a real learn2learn Taskset."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med import l2l
from metanas_med.data.cache import open_caches
from metanas_med.data.settings import PlanSettings
from metanas_med.errors import UserError
from metanas_med.tasks.distribution import TaskDistribution, build_distribution
from metanas_med.tasks.episode import Episode
from metanas_med.tasks.settings import TaskSettings
from metanas_med.tasks.taskset import episode_taskset

needs_learn2learn = pytest.mark.skipif(not l2l.has_learn2learn(), reason="learn2learn is not installed")


@pytest.fixture
def tasks(phantom_cache: Path) -> TaskDistribution:
    return build_distribution(open_caches(phantom_cache), TaskSettings(shots=(1, 2)), PlanSettings(view_voxels=500), 3)


def same(a: Episode, b: Episode) -> bool:
    return (
        (a.task, a.plan) == (b.task, b.plan)
        and [v.name for v in a.support] == [v.name for v in b.support]
        and all(
            torch.equal(x.image, y.image) and torch.equal(x.label, y.label) for x, y in zip(a.support, b.support, strict=True)
        )
        and [q.name for q in a.query] == [q.name for q in b.query]
    )


@needs_learn2learn
@pytest.mark.learn2learn
def test_the_taskset_is_learn2learns_own_class_and_yields_episodes(tasks: TaskDistribution) -> None:
    data: Any = l2l.import_learn2learn().data
    taskset = episode_taskset(tasks, 6, seed=0)
    assert isinstance(taskset, data.Taskset) and isinstance(taskset.dataset, data.MetaDataset) and len(taskset) == 6
    assert set(taskset.dataset.labels) == {t.key for t in tasks.train}
    found = list(taskset)
    assert len(found) == 6 and all(isinstance(e, Episode) for e in found)
    for episode in (*found, taskset.sample()):
        patients = {c.name: c.patient for c in tasks.datasets[episode.task.dataset].cases}
        sides = [{patients[v.name] for v in side} for side in (episode.support, episode.query)]
        assert sides[0] and sides[1] and not sides[0] & sides[1] and len(episode.support) in (1, 2)


@needs_learn2learn
@pytest.mark.learn2learn
def test_an_item_depends_on_seed_and_index_alone(tasks: TaskDistribution) -> None:
    first, second = episode_taskset(tasks, 4, seed=1), episode_taskset(tasks, 8, seed=1)
    backwards = [second[i] for i in (3, 2, 1, 0)][::-1]
    assert all(same(first[i], backwards[i]) for i in range(4)) and same(first[2], first[2])
    other = episode_taskset(tasks, 4, seed=2)
    assert not all(same(first[i], other[i]) for i in range(4))


@needs_learn2learn
@pytest.mark.learn2learn
def test_tasks_and_shots_can_be_fixed(tasks: TaskDistribution) -> None:
    (pair,) = [t for t in tasks.train if t.key == "Phantom06_Pair/left+right"]
    taskset = episode_taskset(tasks, 3, seed=0, tasks=[pair], shots=3)
    assert all(e.task == pair and len(e.support) == 3 for e in taskset)
    assert list(taskset.dataset.labels) == [pair.key]


@needs_learn2learn
@pytest.mark.learn2learn
def test_samples_work_with_learn2learns_own_transforms(tasks: TaskDistribution) -> None:
    data: Any = l2l.import_learn2learn().data
    dataset = episode_taskset(tasks, 1, seed=0).dataset
    transforms = [
        data.transforms.NWays(dataset, n=1),
        data.transforms.KShots(dataset, k=3),
        data.transforms.LoadData(dataset),
    ]
    items = data.Taskset(dataset, transforms, 2, lambda parts: parts)[0]
    assert len(items) == 3 and len({key for _, key in items}) == 1
    assert all(scan.task.key == key for scan, key in items) and len({scan.case for scan, _ in items}) == 3


def test_a_missing_learn2learn_is_a_user_error(tasks: TaskDistribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(l2l, "has_learn2learn", lambda: False)
    monkeypatch.delitem(sys.modules, "learn2learn", raising=False)
    with pytest.raises(UserError, match="learn2learn is not installed"):
        episode_taskset(tasks, 2, seed=0)
