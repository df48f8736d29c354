"""A state is there whole or as it was before, also when the disk fills up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med.engine.checkpoint import PREVIOUS, load_newest, load_state, save_state
from metanas_med.errors import CheckpointError, StorageError

from ..faults import Killed, failing


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


# --- the last two checkpoints -----------------------------------------------------------------------------------------------


def saved(folder: Path, iteration: int, keep: str = PREVIOUS) -> None:
    tensors = {"a": torch.full((3,), float(iteration))}
    save_state(folder, "last", "meta-state", tensors, {"iteration": iteration}, keep=keep)


def iteration_in(folder: Path, name: str = "last") -> int:
    tensors, note = load_state(folder, name, "meta-state")
    assert tensors["a"].eq(note["iteration"]).all()
    return note["iteration"]


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in (1, 2, 3):
        saved(tmp_path, iteration)
    assert (iteration_in(tmp_path), iteration_in(tmp_path, PREVIOUS)) == (3, 2)
    saved(tmp_path, 3)  # at the end of a run the same state is written once more
    assert (iteration_in(tmp_path), iteration_in(tmp_path, PREVIOUS)) == (3, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{n}.{k}" for n in ("last", "previous") for k in ("json", "safetensors")
    ]


def flip(path: Path, place: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "harm", [flip, cut, Path.unlink, lambda path: path.write_bytes(b"")], ids=["flip", "cut", "gone", "empty"]
)
@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], Any], kind: str
) -> None:
    saved(tmp_path, 4)
    saved(tmp_path, 5)
    harm(tmp_path / f"last.{kind}")
    _, note = load_newest(tmp_path, "last", "meta-state")
    assert note["iteration"] == 4
    told = "5" if kind == "safetensors" else "an unknown one"
    assert f"Going on from the checkpoint before it: iteration 4, not {told}" in caplog.text
    saved(tmp_path, 6)  # a damaged state does not push the good one out
    assert (iteration_in(tmp_path), iteration_in(tmp_path, PREVIOUS)) == (6, 4)


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path: Path) -> None:
    """In JSON a flip may give another number, which the hash of the note detects; in white space it changes nothing."""
    save_state(tmp_path, "last", "meta-state", {"a": torch.zeros(2)}, {"iteration": 11, "settings": {"lr": 0.0125}})
    for name in ("last.json", "last.safetensors"):
        path = tmp_path / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            data = bytearray(whole)
            data[place] ^= 1 << place % 7
            path.write_bytes(data)
            try:
                tensors, note = load_state(tmp_path, "last", "meta-state")
            except CheckpointError:
                continue
            assert (note["iteration"], note["settings"]["lr"]) == (11, 0.0125) and not tensors["a"].any(), place
        path.write_bytes(whole)


def test_both_damaged_is_an_error_that_names_the_last(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    saved(tmp_path, 5)
    for name in ("last", PREVIOUS):
        flip(tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged"):
        load_newest(tmp_path, "last", "meta-state")


@pytest.mark.parametrize("links", [True, False])
def test_a_failure_of_any_write_leaves_the_old_state_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The k-th call that changes the disk fails, for every k: with a full disk, and as a kill that cleans nothing up."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    for kill in (False, True):
        for number in range(1, 100):
            folder = tmp_path / f"{kill}{number}"
            saved(folder, 1)
            saved(folder, 2)
            with failing(number, kill) as calls:
                try:
                    saved(folder, 3)
                except (StorageError, Killed):
                    pass
            found = iteration_in(folder)
            assert found in (2, 3)
            before = load_newest(folder, PREVIOUS, "meta-state", "last")[1]["iteration"]
            assert before in (found - 1, found)  # between two moves the older one is already replaced
            if not kill:
                assert not list(folder.glob(".*")) and iteration_in(folder, PREVIOUS) in (1, 2)
            saved(folder, 4)
            assert (iteration_in(folder), iteration_in(folder, PREVIOUS)) == (4, found)
            if calls[0] < number:
                break
        assert 8 < number < 99, "all calls were reached"
