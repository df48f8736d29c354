"""Which scans to annotate: the answer comes from images alone, is the same every time, and says what it rests on."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.cli import main
from metanas_med.data.cached import open_cache
from metanas_med.data.unlabelled import unlabelled_scans
from metanas_med.engine.cover import METHODS, feature_distances
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.seen import seen_in_training
from metanas_med.engine.state import build_network
from metanas_med.engine.suggest import describe, pooled_features, suggest_scans
from metanas_med.errors import ConfigError, DataError, StorageError
from metanas_med.learner import choose_runtime
from metanas_med.learner.relaxations import start_relaxed

RUNTIME = choose_runtime("cpu", "float32")
TIMES = ("seconds",)


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> MetaRun:
    return MetaRun.load(tiny_run)


@pytest.fixture
def pair(phantom_cache: Path) -> Path:
    return phantom_cache / "Phantom06_Pair.h5"


def without_times(note: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in note.items() if key not in TIMES}


@pytest.mark.parametrize("method", METHODS)
def test_the_answer_follows_from_the_features(run: MetaRun, pair: Path, method: str) -> None:
    note = suggest_scans(pair, 3, run, method, device="cpu")
    described = describe(unlabelled_scans(pair), run, RUNTIME)
    distances = feature_distances(described.features)
    names = [s.name for s in described.scans]
    chosen = METHODS[method](distances, 3)
    assert [r["scan"] for r in note["ranking"]] == [names[i] for i in chosen] and [r["rank"] for r in note["ranking"]] == [
        1,
        2,
        3,
    ]
    assert note["num_scans"] == 6 and note["meta_checkpoint"] == run.sha256 and note["seen_in_training"] == []
    assert sum(r["share"] for r in note["ranking"]) == pytest.approx(1)
    told = [n for r in note["ranking"] for n in [r["scan"], *r["stands_for"]]]
    assert sorted(told) == sorted(names)
    for row, index in zip(note["ranking"], chosen, strict=True):
        away = [distances[index, names.index(n)] for n in row["stands_for"]] + [0.0]
        assert row["mean_distance"] == pytest.approx(np.mean(away)) and row["farthest"] == pytest.approx(max(away))
        assert row["share"] == pytest.approx(len(away) / 6)
    assert note["coverage"]["mean"] == pytest.approx(distances[chosen].min(0).mean())
    assert without_times(suggest_scans(pair, 3, run, method, device="cpu")) == without_times(note)


def test_no_label_changes_the_answer(run: MetaRun, make_msd, edit_json: Callable[..., None]) -> None:
    """Of a folder: with its labels, with other ones and without any."""
    root = make_msd("Toy", 6, shape=(24, 20, 16))
    first = suggest_scans(root, 2, run, device="cpu")
    for path in (root / "labelsTr").iterdir():
        path.write_bytes(b"anything")
    second = suggest_scans(root, 2, run, device="cpu")
    shutil.rmtree(root / "labelsTr")
    edit_json(root, labels={"0": "background", "7": "another"}, training=[f"./imagesTr/case_{n}.nii.gz" for n in range(6)])
    third = suggest_scans(root, 2, run, device="cpu")
    assert without_times(first) == without_times(second) == without_times(third)


def test_no_label_of_a_cache_changes_the_answer(run: MetaRun, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = suggest_scans(pair, 2, run, device="cpu")

    def refuse(*_: Any) -> Any:
        raise AssertionError("a label was read")

    data = open_cache(pair)
    for reader in ("label", "label_region"):
        monkeypatch.setattr(type(data), reader, refuse)
    data.cases = tuple(replace(c, label_voxels={}) for c in data.cases)
    data.labels = {9: "another"}
    assert without_times(suggest_scans(data, 2, run, device="cpu")) == without_times(first)


def test_pooled_features_are_means_and_deviations_of_every_level(run: MetaRun, pair: Path) -> None:
    found = unlabelled_scans(pair)
    described = describe(found, run, RUNTIME)
    plan, scan = described.plan, found.scans[1]
    net = build_network(run.settings.space, 0)
    module_state = {**net.weights(), **net.alphas()}
    with torch.no_grad():
        for name, value in {**run.state.weights, **run.state.alphas}.items():
            module_state[name].copy_(value)
        for name, value in run.buffers.items():
            net.get_buffer(name).copy_(value)
    net.body.relax(start_relaxed(run.settings.learner))
    image = plan.apply_image(scan.read(), scan.spacing)
    with torch.no_grad():
        levels = net.eval().features(image[None], plan.strides)
    expected = np.concatenate([v for f in levels for v in (f[0].numpy().mean((1, 2, 3)), f[0].numpy().std((1, 2, 3)))])
    np.testing.assert_allclose(pooled_features(net, image, plan, RUNTIME), expected, atol=1e-5)
    np.testing.assert_allclose(described.features[1], expected, atol=1e-5)
    assert described.features.shape == (6, 2 * sum(net.body.widths))


def test_any_number_of_channels(run: MetaRun, make_msd) -> None:
    """The network was meta-trained on scans of one and two; here are three, all alike, which is the same as one."""
    root = make_msd("Toy", 4, shape=(16, 16, 16))
    single = describe(unlabelled_scans(root), run, RUNTIME)
    triple = replace(
        found := unlabelled_scans(root),
        modality=("MR",) * 3,
        scans=tuple(replace(s, num_channels=3, read=lambda s=s: np.repeat(s.read(), 3, axis=0)) for s in found.scans),
    )
    np.testing.assert_allclose(describe(triple, run, RUNTIME).features, single.features, atol=1e-4)


def test_what_is_too_small_or_damaged_is_set_aside_and_reported(run: MetaRun, make_msd, save_nifti) -> None:
    root = make_msd("Toy", 7, shape=(24, 20, 16))
    save_nifti(root / "imagesTr/case_1.nii.gz", np.ones((24, 20, 2), np.int16))
    path = root / "imagesTr/case_4.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    done: list[tuple[int, int]] = []
    note = suggest_scans(root, 2, run, device="cpu", on_scan=lambda *at: done.append(at))
    assert note["num_scans"] == 5 and set(note["set_aside"]) == {"case_1", "case_4"}
    assert "too small" in note["set_aside"]["case_1"] and "case_4.nii.gz" in note["set_aside"]["case_4"]
    assert not {"case_1", "case_4"} & {n for r in note["ranking"] for n in [r["scan"], *r["stands_for"]]}
    assert done == [(n, 7) for n in range(1, 8)]
    with pytest.raises(DataError, match=r"6 shots were asked for, found 5 usable scan\(s\); 2 set aside, the first: case_1: too"):
        suggest_scans(root, 6, run, device="cpu")


def test_a_run_that_saw_the_scans_is_reported(run: MetaRun, phantom_cache: Path, pair: Path) -> None:
    seen = unlabelled_scans(phantom_cache / "Phantom01_Bean.h5")
    assert seen_in_training(seen, run) == ["Phantom01_Bean"]
    assert seen_in_training(replace(seen, name="Renamed", group="Renamed"), run) == []
    by_card = replace(seen, name="New", group="New", related=("Phantom01_Bean",))
    assert seen_in_training(by_card, run) == ["Phantom01_Bean"]
    assert seen_in_training(unlabelled_scans(pair), run) == []
    trained = replace(run, train_tasks=("Ext20_ProstateMR/prostate", "Task04_Hippocampus/anterior"))
    assert seen_in_training(replace(seen, name="Ext21_ProstateTRUS", group="prostate"), trained) == ["Ext20_ProstateMR"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shots": 7}, DataError, r"7 shots were asked for, found 6 usable scan\(s\)\. Lower --shots"),
        ({"shots": 0}, DataError, "0 shots were asked for, expected at least one"),
        ({"method": "k-means"}, ConfigError, "found method 'k-means', expected one of k-medoids, k-centre"),
        ({"out": "list.txt"}, ConfigError, r"list\.txt: expected a name that ends with \.json or \.csv"),
        ({"shots": 7, "out": f"{__file__}/list.json"}, StorageError, "is a file, expected a folder"),  # before any scan is read
    ],
)
def test_mistakes(run: MetaRun, pair: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        suggest_scans(pair, run=run, device="cpu", **{"shots": 2, **arguments})


def test_the_command(tiny_run: Path, phantoms: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    folder, out = phantoms / "Phantom06_Pair", tmp_path / "list.json"
    arguments = ["suggest", str(folder), "--shots", "2", "--run", str(tiny_run), "--device", "cpu"]
    assert main([*arguments, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    note = json.loads(out.read_text())
    assert len(note["ranking"]) == 2
    for row in note["ranking"]:
        assert re.search(rf"{row['rank']} .*{row['scan']} .*{100 * row['share']:.0f} %", shown)
    assert "annotate these of 6 scans of Phantom06_Pair" in shown and "each file counts as one patient" in shown
    assert "warning" not in shown and "random weights" not in shown and "set aside" not in shown
    assert main([*arguments, "--out", str(out.with_suffix(".csv")), "--method", "k-centre"]) == 0
    rows = list(csv.DictReader(open(out.with_suffix(".csv"), newline="")))
    assert len(rows) == 2 and sum(float(r["share"]) for r in rows) == pytest.approx(1)
    assert "start of a longer one" not in capsys.readouterr().out
    assert main(["suggest", str(phantoms / "Phantom01_Bean"), "--run", str(tiny_run), "--device", "cpu"]) == 0
    assert "warning: meta-training saw Phantom01_Bean" in capsys.readouterr().out


def test_the_command_without_a_run_and_with_too_few_scans(
    make_msd, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    root = make_msd("Toy", 3, shape=(12, 12, 12))
    assert main(["suggest", str(root), "--shots", "2", "--device", "cpu"]) == 0
    assert "no --run: the features come from a network with random weights" in capsys.readouterr().out
    assert main(["suggest", str(root), "--shots", "5", "--device", "cpu", "--out", str(tmp_path / "list.json")]) == 2
    assert capsys.readouterr().err == "error: Toy: 5 shots were asked for, found 3 usable scan(s). Lower --shots or add scans.\n"
    assert not (tmp_path / "list.json").exists()
    assert main(["suggest", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
