"""The whole job on tiny data, with labels and without."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.cli import main

from .shared import Refused


@pytest.mark.parametrize("dims", [3, 2])
def test_the_whole_job(
    dims: int, phantoms: Path, config: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> str:
        assert main([str(a) for a in arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    cache, meta, model, predictions = (tmp_path / name for name in ("cache", "meta", "model", "predictions"))
    pair = phantoms / "Phantom06_Pair"
    shown = run("prepare", *sorted(phantoms.iterdir()), "--cache", cache)
    assert "Phantom05_ShellCore" in shown and "6 (one per file)" in shown and "built" in shown
    train = ["meta-train", "--config", config, "--cache", cache, "--out", meta, "--tasks.hold_out", "[Phantom06_Pair]"]
    shown = run(*train, "--space.dims", dims)
    assert "meta-trained" in shown and (meta / "last.safetensors").is_file()
    # a meta-state is of slices or of volumes, and says so
    assert json.loads((meta / "last.json").read_text())["settings"]["space"]["dims"] == dims
    assert f"space.dims is {dims} there, {5 - dims} now" in refused(*train, "--resume", "--space.dims", 5 - dims)
    shown = run(*train, "--space.dims", dims, "--resume", "--meta.iterations", "2")
    assert len((meta / "iteration.jsonl").read_text().splitlines()) == 2
    job = ["adapt", meta, pair, "--organ", "left,right", "--shots", "2", "--steps", "2", "--evaluate", "1", "--out", model]
    assert "--space.dims has no effect here" in refused(*job, "--space.dims", 5 - dims)
    shown = run(*job)
    before, done = shown.split("adapted to ")
    assert "will adapt to left, right from 2 scan(s): " in before and "then score 1 other scan(s)" in before
    assert re.search(r"will take 2 steps on views of \d+ x \d+ x \d+ voxels of .* mm, on cpu: about [1-9]\d* (s|min)", before)
    assert "left, right from 2 scan(s), 2 steps" in done and "Dice on 1 held-back" in done and "each file counted" in done
    assert "more steps" not in done  # two scans were not tested
    assert json.loads((model / "architecture.json").read_text())["space"]["dims"] == dims
    shown = run("predict", model, pair, "--out", predictions)
    assert "wrote 6 label map(s)" in shown
    for scan in (pair / "imagesTr").iterdir():
        image: Any = nib.load(scan)  # type: ignore[attr-defined]
        label: Any = nib.load(predictions / scan.name)  # type: ignore[attr-defined]
        assert label.shape == image.shape and np.array_equal(label.affine, image.affine)
    shown = run("evaluate", model, pair, "--out", tmp_path / "evaluation")
    assert "left" in shown and (tmp_path / "evaluation" / "summary.json").is_file()
    run("evaluate", "--predictions", predictions, "--labels", pair / "labelsTr", "--out", tmp_path / "folders")
    a, b = (json.loads((tmp_path / f / "summary.json").read_text()) for f in ("evaluation", "folders"))
    assert (a["num_cases"], b["num_cases"]) == (4, 6)


def test_more_steps_are_suggested_where_they_help(
    tiny_run: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = {"organs": ["left"], "support": list("abcde"), "seconds": 31.0, "dice_after": None, "patients_known": True}
    note["report"] = {"steps": 20, "seconds": 31.0, "gap_at_switch": None}
    monkeypatch.setattr("metanas_med.engine.adapt.adapt", lambda *_, **__: note)
    assert main(["adapt", str(tiny_run), str(pair), "--out", str(tmp_path / "model")]) == 0
    assert "--steps 400 would take about 11 min here" in capsys.readouterr().out


def test_a_label_free_search_and_an_organ_from_it(
    phantoms: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta, model, site = tmp_path / "found", tmp_path / "model", tmp_path / "site"
    shutil.copytree(phantoms / "Phantom06_Pair" / "imagesTr", site)
    small = ["--plan.view_voxels", "1000", "--pretext.scans", "3", "--meta.num_validation", "3"]
    command = [
        "search",
        "--pretext",
        "rotation, genesis",
        str(phantoms / "Phantom01_Bean"),
        str(phantoms / "Phantom05_ShellCore"),
    ]
    assert main([*command, "--config", str(config), "--out", str(meta), *small]) == 0
    assert "searched without labels" in capsys.readouterr().out and (meta / "architecture.svg").is_file()
    settings = json.loads((meta / "settings.json").read_text())
    assert settings["pretext"]["names"] == ["rotation", "genesis"] and settings["pretext"]["mix"] == 1
    command = ["adapt", str(meta), str(phantoms / "Phantom06_Pair"), "--organ", "left", "--shots", "2", "--evaluate", "1"]
    label_free = ["--unlabelled", str(site), "--pretext", "jigsaw", "--unlabelled-steps", "4"]
    assert main([*command, *label_free, "--out", str(model)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "will take 4 label-free steps, then 2 steps" in shown
    assert (
        "first learned from 4 unlabelled scan(s) by jigsaw: 4 steps" in shown
        and "2 left out as support; transductive: 1" in shown
    )
    assert json.loads((model / "adaptation.json").read_text())["unlabelled"]["steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretext", "rotashun"], "unknown pretext 'rotashun'; did you mean 'rotation'"),
        (
            ["--pretext", "sudoku"],
            "unknown pretext 'sudoku'; known: colorization, genesis, inpainting, jigsaw, random-labels, rotation",
        ),
        (["--pretext.scans", "9"], r"found usable scans of 6 patient\(s\) \(0 too small\), expected 9"),
        (["--pretext.mixx", "1"], "unknown setting 'pretext.mixx'; did you mean 'mix'"),
    ],
)
def test_search_with_a_mistake(
    phantoms: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert main(["search", str(phantoms / "Phantom01_Bean"), "--config", str(config), "--out", str(out), *arguments]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.splitlines()[-1].startswith("error: ") and not out.exists()


def test_unlabelled_folders_with_a_mistake(tiny_run: Path, phantoms: Path, pair: Path, tmp_path: Path, refused: Refused) -> None:
    site = tmp_path / "site"
    shutil.copytree(phantoms / "Phantom06_Pair" / "imagesTr", site)
    adapt = ["adapt", tiny_run, pair, "--organ", "left", "--shots", "1", "--out", tmp_path / "model"]
    assert "need --unlabelled FOLDER" in refused(*adapt, "--unlabelled-steps", "3")
    assert "unknown pretext 'maze'" in refused(*adapt, "--unlabelled", pair, "--pretext", "maze")
    shutil.copytree(phantoms / "Phantom06_Pair" / "labelsTr", site / "labels")
    assert "found labels in a folder without dataset.json" in refused(*adapt, "--unlabelled", site)
    (site / "labels").rename(tmp_path / "maps")
    label = next((tmp_path / "maps").iterdir())
    shutil.copy(label, site / "map.nii.gz")
    assert "looks like a label map" in refused(*adapt, "--unlabelled", site)
    assert "no such folder" in refused(*adapt, "--unlabelled", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "found no scan" in refused(*adapt, "--unlabelled", tmp_path / "empty")


def test_the_demo_removes_only_what_a_demo_made(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "last.json").write_text("{}")
    assert "no demo made it" in refused("demo", "--out", tmp_path)
