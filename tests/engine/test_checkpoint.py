"""A state is there whole or as it was before, also when the disk fills up."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from metanas_med.engine.checkpoint import load_state, save_state
from metanas_med.errors import StorageError


@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    folder = tmp_path / "run"
    save_state(folder, "last", "meta-state", {"a": torch.zeros(3)}, {"iteration": 1})
    sync, count = os.fsync, [0]

    def full(handle: int) -> None:
        count[0] += 1
        if count[0] == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_state(folder, "last", "meta-state", {"a": torch.ones(3)}, {"iteration": 2})
    tensors, note = load_state(folder, "last", "meta-state")
    assert note["iteration"] == 1 and not tensors["a"].any()
    assert sorted(p.name for p in folder.iterdir()) == ["last.json", "last.safetensors"] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("killed_at", [".last.safetensors", "last.safetensors", "last.json"])
def test_a_kill_between_two_renames_leaves_one_state_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    folder, move = tmp_path / "run", os.replace
    save_state(folder, "last", "meta-state", {"a": torch.zeros(3)}, {"iteration": 0})

    # once more and again: what an earlier kill left lying must not stand in the way of a later one
    def stop(source: Path, target: Path) -> None:
        if Path(target).parent == folder and Path(target).name == killed_at:
            raise KeyboardInterrupt
        move(source, target)

    for iteration in (1, 2):
        monkeypatch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            save_state(folder, "last", "meta-state", {"a": torch.full((3,), float(iteration))}, {"iteration": iteration})
        monkeypatch.setattr(os, "replace", move)
        tensors, note = load_state(folder, "last", "meta-state")
        assert torch.equal(tensors["a"], torch.full((3,), float(note["iteration"]))) and note["iteration"] == 0
    save_state(folder, "last", "meta-state", {"a": torch.full((3,), 3.0)}, {"iteration": 3})
    tensors, note = load_state(folder, "last", "meta-state")
    assert note["iteration"] == 3 and tensors["a"].eq(3).all()
    assert sorted(p.name for p in folder.iterdir()) == ["last.json", "last.safetensors"]


def test_tensors_that_a_kill_left_aside_stand_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the JSON is in place, and then once more between the renames of the next state."""
    for iteration in (1, 2):
        save_state(tmp_path, "last", "meta-state", {"a": torch.full((3,), float(iteration))}, {"iteration": iteration})
    (tmp_path / ".last.safetensors").write_bytes(b"of an older state")
    move = os.replace

    def stop(source: Path, target: Path) -> None:
        if Path(target).name == "last.json":
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, "last", "meta-state", {"a": torch.full((3,), 3.0)}, {"iteration": 3})
    tensors, note = load_state(tmp_path, "last", "meta-state")
    assert note["iteration"] == 2 and tensors["a"].eq(2).all()


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    given = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.bfloat16).T}
    digest = save_state(tmp_path / "new" / "run", "last", "meta-state", given, {"held_out": ["heart"]})
    tensors, note = load_state(tmp_path / "new" / "run", "last", "meta-state")
    assert note["held_out"] == ["heart"] and note["sha256"] == digest
    assert all(torch.equal(tensors[n], given[n]) for n in given)
