"""Checkpoints and models that are damaged or already exist."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main

from .shared import Refused, snapshot


def note(**changes: Any) -> Callable[[Path, str], None]:
    def write(folder: Path, name: str) -> None:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"note_sha256": None} | changes))

    return write


def flip(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 8
    path.write_bytes(data)


def cut(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


HARMS: list[tuple[Callable[[Path, str], Any], str]] = [
    (note(format=99, code="9.9.0"), r"has format 99, this version reads 1. Use the version that wrote it \(9\.9\.0\)"),
    (note(kind="painting"), "is not a .*; found 'painting'"),
    (note(settings=3, space=3), "cannot be used"),
    (flip, "is damaged"),
    (cut, "is damaged"),
    (lambda folder, name: (folder / f"{name}.safetensors").unlink(), "is missing"),
    (lambda folder, name: (folder / f"{name}.json").write_text("{"), "is damaged"),
    (lambda folder, name: (folder / f"{name}.json").unlink(), "holds no"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS)
def test_a_damaged_checkpoint(
    tiny_run: Path, pair: Path, tmp_path: Path, refused: Refused, harm: Callable[[Path, str], Any], message: str
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    harm(run, "last")
    assert re.search(message, refused("adapt", run, pair, "--out", tmp_path / "model"))


def test_resuming_a_damaged_checkpoint(tiny_run: Path, config: Path, tmp_path: Path, refused: Refused) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    flip(run, "last")
    assert "is damaged" in refused("meta-train", "--config", config, "--out", run, "--resume")


def test_existing_runs_and_models_are_not_overwritten(
    tiny_run: Path, tiny_model: Path, config: Path, pair: Path, refused: Refused
) -> None:
    before = snapshot(tiny_run) | snapshot(tiny_model)
    assert "already holds a run; give --resume" in refused("meta-train", "--config", config, "--out", tiny_run)
    assert "already holds a model" in refused("adapt", tiny_run, pair, "--shots", "1", "--out", tiny_model)
    assert snapshot(tiny_run) | snapshot(tiny_model) == before


def test_existing_evaluations_and_phantoms_are_not_overwritten(
    tiny_model: Path, phantoms: Path, pair: Path, tmp_path: Path, refused: Refused
) -> None:
    labels, out, made = phantoms / "Phantom06_Pair" / "labelsTr", tmp_path / "evaluation", tmp_path / "made"
    of_folders = ["evaluate", "--predictions", labels, "--labels", labels, "--out", out]
    assert main([str(a) for a in of_folders]) == 0
    for command in (of_folders, ["evaluate", tiny_model, pair, "--out", out]):
        assert "evaluation already holds an evaluation. Choose another --out, or remove it" in refused(*command)
    assert main(["phantom", str(made), "--cases", "1"]) == 0
    assert "Phantom01_Bean already holds a data set. Choose another folder" in refused("phantom", made, "--seed", "1")


@pytest.mark.parametrize(("harm", "message"), [*HARMS, (note(genotype=[1]), "model.json cannot be used")])
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_damaged_model(
    tiny_model: Path,
    phantoms: Path,
    pair: Path,
    tmp_path: Path,
    refused: Refused,
    harm: Callable[[Path, str], Any],
    message: str,
    command: str,
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    harm(model, "model")
    data = phantoms / "Phantom06_Pair" if command == "predict" else pair
    assert re.search(message, refused(command, model, data, "--out", tmp_path / "out"))
