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


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    given = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.bfloat16).T}
    digest = save_state(tmp_path / "new" / "run", "last", "meta-state", given, {"held_out": ["heart"]})
    tensors, note = load_state(tmp_path / "new" / "run", "last", "meta-state")
    assert note["held_out"] == ["heart"] and note["sha256"] == digest
    assert all(torch.equal(tensors[n], given[n]) for n in given)
