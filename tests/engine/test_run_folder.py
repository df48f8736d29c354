"""What a meta-training writes to its folder and takes up from it; the count of failed tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med.engine.meta_train import MetaTraining
from metanas_med.engine.run_folder import Counters, RunFolder
from metanas_med.errors import CheckpointError, DivergedError
from metanas_med.meta import MetaState

MakeSettings = Callable[..., Any]


def folder_of(settings: Any, path: Path) -> RunFolder:
    """Return a run's folder as another start of the program opens it."""
    distribution = MetaTraining(settings, path.parent / f"other_{path.name}", False).tasks
    return RunFolder(path, settings, distribution, None)


def written(settings: Any, path: Path) -> tuple[RunFolder, MetaState, dict[str, torch.Tensor], Counters]:
    """Return a folder with a checkpoint, and what is in it."""
    state = MetaState({"w": torch.arange(3.0)}, {"row": torch.tensor([0.5, -0.5])})
    buffers = {"gain": torch.tensor([2.0])}
    at = Counters(7, 12.5, 1.5, 2, best=0.25, committed=True)
    at.recent_bad.extend([0, 1, 1])
    folder = folder_of(settings, path)
    for name in ("best", "last"):
        folder.save(name, folder.snapshot(state, buffers, {"exp_avg.w": torch.ones(3)}, at))
    return folder, state, buffers, at


def test_a_checkpoint_holds_all_that_a_resumed_run_needs(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    settings = tiny_settings()
    _, state, buffers, at = written(settings, tmp_path / "run")
    found, gains, features, counters, _ = folder_of(settings, tmp_path / "run").load()
    assert torch.equal(found.weights["w"], state.weights["w"]) and torch.equal(found.alphas["row"], state.alphas["row"])
    assert torch.equal(gains["gain"], buffers["gain"]) and features.keys() == {"exp_avg.w"}
    assert counters == at and counters.recent_bad.maxlen == 100
    note = json.loads((tmp_path / "run" / "last.json").read_text())
    assert note["settings"]["learner"]["name"] == "darts" and note["train_tasks"] and note["held_out"] == []


def test_a_folder_that_holds_a_run_is_not_free(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    settings = tiny_settings()
    folder_of(settings, tmp_path / "run").check_free()
    folder, *_ = written(settings, tmp_path / "run")
    with pytest.raises(CheckpointError, match="already holds a run; give --resume"):
        folder.check_free()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space.base_width": 3}, "another search space: space.base_width is 2 there, 3 now"),
        ({"tasks.hold_out": ("Phantom06_Pair",)}, "has learned from Phantom06_Pair, now held out"),
        ({"tasks.validation": ("Phantom06_Pair",)}, "has learned from Phantom06_Pair, now validation"),
    ],
)
def test_a_run_is_not_resumed_with_what_does_not_fit(
    tiny_settings: MakeSettings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    written(tiny_settings(), tmp_path / "run")
    with pytest.raises(CheckpointError, match=message):
        folder_of(tiny_settings(**changes), tmp_path / "run").load()


def test_data_sets_of_earlier_parts_are_kept_in_the_note(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    folder, *_ = written(tiny_settings(), tmp_path / "run")
    everything = list(folder.learned_from)
    later = folder_of(tiny_settings(**{"tasks.hold_out": ()}), tmp_path / "run")
    later.learned_from = later.learned_from[:1]  # as where only one data set is left in the cache
    state, buffers, features, at, _ = later.load()
    assert set(later.learned_from) == set(everything)
    assert set(later.snapshot(state, buffers, features, at)[1]["train_tasks"]) == set(everything)


def test_bad_tasks_are_counted_among_the_last_hundred() -> None:
    at = Counters()
    for number in range(150):
        at.note_task("A/organ", "the loss became nan" if number < 2 else "", 2)
    assert at.num_bad == 2 and sum(at.recent_bad) == 0  # they are too long ago
    at.note_task("A/organ", "the loss became nan", 2)
    at.note_task("A/organ", "the loss became nan", 2)
    with pytest.raises(
        DivergedError, match=r"3 of the last 100 tasks .*max_bad_tasks 2\); the last: B/organ: the loss became inf"
    ):
        at.note_task("B/organ", "the loss became inf", 2)
    assert at.num_bad == 5
