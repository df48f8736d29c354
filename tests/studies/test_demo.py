"""The demo at a size of seconds: its tables are those of its files, and it replaces only what a demo made."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.phases import features_around
from metanas_med.errors import CheckpointError
from metanas_med.studies import demo as module
from metanas_med.studies.demo_start import run as demo_start

SMALL = {
    "SHOTS": (1, 2),
    "STEPS": (0, 1),
    "DRAWS": 1,
    "NUM_CASES": 4,
    "NUM_QUERY": 2,
    "NUM_TRAINING": 2,
    "CONTINUE": 2,
    "WORKERS": 1,
}


@pytest.fixture(scope="module")
def made(tiny_settings: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration whose steps take milliseconds, and the starts that were made with it on two organs."""
    folder = tmp_path_factory.mktemp("made")
    changes = {"meta.iterations": 4, "meta.batch": 1, "meta.num_validation": 0, "meta.commit": 0.5, "plan.view_voxels": 1000}
    changes |= {"phases": features_around(0.5, 0.25), "features.voxels": 40, "adapt.alpha": "frozen"}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(**changes).model_dump(mode="json")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_start, "TRAINING", demo_start.TRAINING[:2])
        starts = demo_start.make_start(folder / "start", str(path), num_cases=2)
    return path, starts


@pytest.fixture
def tiny(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the configuration, for a demo of that size."""
    for name, value in {**SMALL, "TRAINING": module.TRAINING[:2], "STARTS": made[1]}.items():
        monkeypatch.setattr(module, name, value)
    return str(made[0])


def test_the_starts_say_how_they_were_made(made: tuple[Path, Path]) -> None:
    _, starts = made
    text = (starts / "README.md").read_text()
    assert "metanas-med study demo-start --out FOLDER" in text and "4 iterations each" in text
    for name in ("demo", "demo_joint"):
        tensors, note = load_state(starts / name, "last", "meta-state")
        assert f"`{note['sha256']}`" in text and note["iteration"] == 4 and note["committed"]
        assert not [key for key in tensors if key.startswith("features.")]


def test_the_tables_and_the_files(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    out = module.demo(tiny, ["--meta.beta_weights", "0.3"], tmp_path / "out")
    shown = capsys.readouterr().out

    # the run continued from the start, by the settings given, and learned from no held-out organ
    note = load_state(out / "meta", "last", "meta-state")[1]
    assert note["iteration"] == 6 and "iterations 5 to 6" in shown and note["settings"]["meta"]["beta_weights"] == 0.3
    held_out = [organ.name for organ in module.HELD_OUT]
    assert note["held_out"] == held_out and len(note["train_tasks"]) == 2
    assert not [key for key in note["train_tasks"] if key.startswith(tuple(held_out))]

    with open(out / "dice.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(module.METHODS) * 2 * 2 * 2 * module.DRAWS * module.NUM_QUERY
    mean = np.mean([float(r["dice"]) for r in rows if (r["method"], r["shots"], r["steps"]) == (module.META, "2", "1")])
    line = next(line for line in shown.splitlines() if line.replace("│", " ").split()[:2] == ["2", "1"])
    assert f"{mean:.2f} [" in line and "Better and worse mean" in shown

    for name in ("demo.png", "adapted/model.safetensors", "adapted/overlay.png", "meta/last.safetensors"):
        assert (out / name).stat().st_size > 0
    adaptation = json.loads((out / "adapted" / "adaptation.json").read_text())
    assert len(adaptation["support"]) == 2 and adaptation["report"]["steps"] == 1
    assert f"predict {out}/adapted" in shown

    # the next demo replaces it
    module._clear(out)
    assert not (out / "adapted").exists() and not (out / "data").exists() and (out / "demo.txt").exists()


def test_support_and_query_are_apart_and_queries_stay(tiny: str, tmp_path: Path) -> None:
    datasets = module._make_data(tmp_path, 0)
    assert list(datasets) == [organ.name for organ in module.HELD_OUT]
    found = [module._split(dataset, 2, number) for dataset in list(datasets.values())[:1] for number in range(3)]
    assert len({tuple(query) for _, query in found}) == 1
    assert all(len(support) == 2 and len(query) == 2 and not set(support) & set(query) for support, query in found)


def test_another_search_space_is_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"another search space: space\.base_width is 2 there, 3 now"):
        module.demo(tiny, ["--space.base_width", "3"], tmp_path / "out")


def test_what_no_demo_made_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(CheckpointError, match="no demo made it"):
        module.demo("demo", [], tmp_path)
    assert (tmp_path / "data").is_dir() and not (tmp_path / "demo.txt").exists()


def test_words_and_numbers_of_the_verdict() -> None:
    random = np.random.default_rng(0)
    noise = {organ: random.normal(0, 0.01, (1, 3, 4)) for organ in ("a", "b")}
    level = {module.META: 0.7, module.JOINT: 0.7, module.FRESH: 0.4}
    scores = {
        (method, shots, steps): {organ: level[method] + values * (method == module.META) for organ, values in noise.items()}
        for method in module.METHODS
        for shots in module.SHOTS
        for steps in module.STEPS
    }
    told = module.verdict(scores)
    assert "against fresh weights it is better in 4 of 4 settings, level in 0, worse in 0" in told
    margin = module.difference(scores, module.FRESH, 1, 0)
    assert margin.low < margin.mean < margin.high and 0.25 < margin.low
    table = module.difference_table(scores)
    assert len(table) == 4 and table[0][f"minus {module.FRESH}"].startswith(f"{margin.mean:+.3f} [")
