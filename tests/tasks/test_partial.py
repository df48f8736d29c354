"""Partly annotated scans in tasks, splits and episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.data.patches import PatchSampler
from metanas_med.data.settings import PlanSettings
from metanas_med.errors import DataError
from metanas_med.tasks.distribution import build_distribution
from metanas_med.tasks.episode import draw_split, make_episode, recast_episode
from metanas_med.tasks.organ import OrganTask, task_in, task_of
from metanas_med.tasks.settings import TaskSettings

PLAN = PlanSettings(view_voxels=600)
A, B = np.s_[1, 2:5, 3:6], np.s_[2, 2:5, 3:6]


@pytest.fixture
def make_partial(make_msd: Any, save_nifti: Any, tmp_path: Path) -> Any:
    """``make_partial(first=[cases], second=[cases], num_cases=4)``: those cases annotate this organ alone."""

    def make(num_cases: int = 4, **alone: list[int]) -> CachedDataset:
        root = make_msd(num_cases=num_cases)
        tree = json.loads((root / "dataset.json").read_text())
        for value, (name, place) in enumerate((("first", A), ("second", B)), start=1):
            for number in alone.get(name, ()):
                label = np.zeros((10, 12, 8), np.uint8)
                label[place] = value
                save_nifti(root / f"labelsTr/case_{number}.nii.gz", label)
                tree["training"][number]["annotated"] = [name]
        (root / "dataset.json").write_text(json.dumps(tree))
        prepare([root], tmp_path / "cache")
        return open_cache(tmp_path / "cache" / "Toy.h5")

    return make


def both(data: CachedDataset) -> OrganTask:
    return task_of(data.name, data.labels, "all")


def test_scans_that_annotate_every_organ_come_first(make_partial: Any) -> None:
    data = make_partial(first=[0, 2])
    for seed in range(8):
        support, query = draw_split(data, both(data), 2, 1, np.random.default_rng(seed))
        assert set(support) == {"case_1", "case_3"} and len(query) == 1
    union = task_of(data.name, data.labels, "union")
    support, query = draw_split(data, union, 4, 1, np.random.default_rng(0))
    assert set(support) == {"case_1", "case_3"} and not query  # others do not annotate the whole union
    assert len(draw_split(data, task_of(data.name, data.labels, "first"), 3, 1, np.random.default_rng(0))[0]) == 3


def test_an_episode_knows_what_its_scans_do_not_annotate(make_partial: Any) -> None:
    data = make_partial(first=[0], second=[1])
    episode = make_episode(data, both(data), ["case_0", "case_1", "case_2"], ["case_3"], PLAN, 2)
    assert [volume.missing for volume in episode.support] == [(2,), (1,), ()] and episode.query[0].missing == ()
    assert make_episode(data, both(data), ["case_2"], ["case_1"], PLAN, 2).query[0].missing == (1,)
    changed = recast_episode(episode, np.random.default_rng(0), 2)
    assert [volume.missing for volume in changed.support] == [(2,), (1,), ()]
    for augment in (False, True):
        sampler = PatchSampler(episode.support, episode.plan.view, np.random.default_rng(0), augment=augment)
        batch = sampler.batch(8)
        assert {organs for organs in batch.missing} == {(2,), (1,), ()}
        for label, organs in zip(batch.labels, batch.missing, strict=True):
            assert not any((label == k).any() for k in organs)
        assert sampler.batch(2, [2]).missing == () and set(sampler.views(0).missing) == {(2,)}


def test_parts_of_a_union_that_is_not_annotated_are_background(make_partial: Any) -> None:
    data = make_partial(first=[0])
    union = task_of(data.name, data.labels, "union")
    episode = make_episode(data, union, ["case_0", "case_1"], [], PLAN, 2)
    assert [volume.missing for volume in episode.support] == [(1,), ()]
    assert not episode.support[0].label.any() and episode.support[1].label.any()


def test_a_union_that_no_scan_annotates_is_no_task(make_partial: Any) -> None:
    data = make_partial(first=[0, 1], second=[2, 3])
    with pytest.raises(DataError, match="Toy/union: no scan that holds the organ annotates all of its parts"):
        task_in(data, "union")
    settings = TaskSettings(synthetic=0.0, recast=0.0, shots=(2,))
    found = build_distribution({"Toy": data}, settings, PLAN, 2)
    assert [task.key for task in found.train] == ["Toy/first", "Toy/second", "Toy/first+second"]
    for seed in range(6):
        found.draw(np.random.default_rng(seed))
