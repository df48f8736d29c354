"""Full disks, and losses that are not finite."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metanas_med.cli import main

from .shared import Refused, full_disk


@pytest.mark.parametrize("command", ["prepare", "phantom", "meta-train", "adapt", "predict", "evaluate"])
def test_no_space_left(
    command: str,
    make_msd,
    config: Path,
    tiny_run: Path,
    tiny_model: Path,
    pair: Path,
    phantoms: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    arguments = {
        "prepare": [make_msd("Toy"), "--cache", out],
        "phantom": [out, "--cases", 1],
        "meta-train": ["--config", config, "--out", out],
        "adapt": [tiny_run, pair, "--shots", 1, "--steps", 0, "--evaluate", 0, "--out", out],
        "predict": [tiny_model, phantoms / "Phantom06_Pair", "--out", out],
        "evaluate": [tiny_model, pair, "--limit", 1, "--out", out],
    }[command]
    full_disk(monkeypatch)
    assert "No space left on device. Free some space" in refused(command, *arguments)


def test_a_disk_that_fills_up_in_the_run_leaves_a_checkpoint(
    config: Path,
    tmp_path: Path,
    add_learner: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["meta-train", "--config", str(config), "--out", str(tmp_path / "run"), "--meta.num_validation", "0"]
    assert main(command) == 0
    add_learner("filling", lambda number: full_disk(monkeypatch))
    capsys.readouterr()
    assert main([*command, "--resume", "--meta.iterations", "3", "--learner.name", "filling"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*command, "--resume", "--meta.iterations", "2"]) == 0
    rows = (tmp_path / "run" / "iteration.jsonl").read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == [1, 2]


def test_track_mirrors_a_run_to_wandb_and_nothing_is_sent_without_it(config: Path, tmp_path: Path, offline: Path) -> None:
    pytest.importorskip("wandb")
    command = ["meta-train", "--config", str(config), "--meta.num_validation", "0", "--meta.iterations", "1"]
    for name, track in (("tracked", ["--track.wandb", "true"]), ("local", [])):
        assert main([*command, "--out", str(tmp_path / name), *track]) == 0
    assert list((tmp_path / "tracked" / "wandb").glob("offline-run-*/*.wandb"))
    assert not (tmp_path / "local" / "wandb").exists()


def test_a_limit_on_the_size_of_files(make_msd, tmp_path: Path) -> None:
    """The operating system raises the error: no file of this process may exceed 100 000 bytes."""
    pytest.importorskip("resource")
    root, cache = make_msd("Toy"), tmp_path / "cache"
    code = (
        "import resource, sys\n"
        "from metanas_med.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "prepare", str(root), "--cache", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and re.fullmatch(r"error: cannot write .*Toy\.h5: File too large\. .*\n", done.stderr)
    assert not cache.exists() or not any(cache.iterdir())


def test_losses_that_are_not_finite(
    config: Path, tiny_run: Path, pair: Path, tmp_path: Path, refused: Refused, fail_at: Callable[..., str], capsys
) -> None:
    from metanas_med.learner import NonFiniteLossError

    name = fail_at(set(range(1, 9)), NonFiniteLossError("the loss became nan"))
    shown = refused("adapt", tiny_run, pair, "--shots", "1", "--out", tmp_path / "model", "--adapt.name", name)
    assert "the loss became nan during adaptation. Lower adapt.lr" in shown
    command = ["meta-train", "--config", str(config), "--out", str(tmp_path / "run"), "--learner.name", name]
    assert main([*command, "--meta.max_bad_tasks", "1"]) == 2
    err = capsys.readouterr().err
    assert "2 of the last 2 tasks had a non-finite loss (limit meta.max_bad_tasks 1)" in err
