"""Starts by name, bad ones, and a state that is made ready to be shipped."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metanas_med.engine import starts
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.checkpoint import load_state, save_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.model import Model
from metanas_med.engine.settings import Settings
from metanas_med.engine.starts import STARTS, find_start, publish, shipped_starts, state_bytes
from metanas_med.engine.state import build_network
from metanas_med.errors import CheckpointError, ConfigError

FAST = AdaptSettings(shots=1, steps=1, evaluate=0, device="cpu", precision="float32", images=False)


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> Path:
    """The folder of a small start that this installation ships as ``default``."""
    monkeypatch.setattr(starts, "STARTS", tmp_path / "shipped")
    publish(tiny_run, tmp_path / "shipped" / "default")
    return tmp_path / "shipped" / "default"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_the_starts_of_the_demo_are_found_by_name() -> None:
    assert {"demo", "demo_joint"} <= set(shipped_starts())
    assert find_start("demo") == STARTS / "demo"


def test_a_shipped_name_means_the_shipped_start(default: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_start("default") == default and not caplog.records
    (elsewhere / "default").mkdir()
    with caplog.at_level(logging.WARNING):
        assert find_start("default") == default
    assert "./default" in caplog.text
    caplog.clear()
    for name in ("./default", "default/", Path("default"), str(elsewhere / "default")):
        assert find_start(name).resolve() == elsewhere / "default"
    assert not caplog.records
    (elsewhere / "default").rmdir()
    assert find_start(Path("default")) == default


def test_an_installation_without_the_default_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    monkeypatch.setattr(starts, "STARTS", tmp_path / "shipped")
    with pytest.raises(CheckpointError, match=r"no start 'default'; it has: none"):
        find_start("default")
    shutil.copytree(STARTS / "demo", tmp_path / "shipped" / "demo")
    (elsewhere / "default").mkdir()
    with pytest.raises(CheckpointError, match=r"no start 'default'; it has: demo\."):
        find_start("default")


def test_an_unknown_name_is_refused_with_the_nearest_one(default: Path, elsewhere: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'defualt'; did you mean 'default'\? known: default\. .*meta-train --out"):
        find_start("defualt")
    with pytest.raises(CheckpointError, match="known: default"):
        find_start("runs/meta")
    (elsewhere / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file is a file; expected a shipped start"):
        find_start("file")
    assert find_start(elsewhere) == elsewhere
    for odd in ("", "a\0b", "x" * 5000):
        with pytest.raises(CheckpointError):
            MetaRun.open(odd)


def test_adapt_takes_a_shipped_start_by_name(default: Path, elsewhere: Path, phantom_cache: Path) -> None:
    pair = phantom_cache / "Phantom06_Pair.h5"
    note = adapt("default", pair, elsewhere / "model", FAST)
    assert note["meta_checkpoint"] == load_state(default, "last", "meta-state")[1]["sha256"]
    assert "start_has_seen" not in note


def truncated(file: str, share: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(share * len(data)) - (share == 1)])

    return cut


def edited(**changes: object) -> Callable[[Path], None]:
    """Return a fault that changes the note and keeps its hash right."""

    def edit(folder: Path) -> None:
        tensors, note = load_state(folder, "last", "meta-state")
        note = {key: value for key, value in note.items() if key not in ("sha256", "note_sha256", "format")}
        save_state(folder, "last", "meta-state", tensors, {**note, **changes})

    return edit


def other_space(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = load_state(folder, "last", "meta-state")[1]["settings"]
        edited(settings={**settings, "space": {**settings["space"], **changes}})(folder)

    return edit


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    **{f"tensors cut at {share}": (truncated("last.safetensors", share), "is damaged") for share in (0, 0.001, 0.5, 0.99, 1)},
    **{f"note cut at {share}": (truncated("last.json", share), "is damaged") for share in (0, 0.001, 0.5, 0.99)},
    "a newer format": (edited(format=2), "has format 2, this version reads 1"),
    "an unknown space": (other_space(name="unet_superset"), "unet_superset.*did you mean 'unet_supernet'"),
    "another width": (other_space(base_width=3), "do not fit the architecture"),
    "no space": (edited(settings={}), "cannot be used|do not fit"),
    "scans of another type": (edited(scans={"A": 5}), "cannot be used"),
    "scans that are no map": (edited(scans=["A"]), "cannot be used"),
    "no tensors": (lambda folder: (folder / "last.safetensors").unlink(), "is missing"),
    "no note": (lambda folder: (folder / "last.json").unlink(), "holds no last.json"),
    "a folder for a note": (lambda folder: ((folder / "last.json").unlink(), (folder / "last.json").mkdir())[0], "damaged"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_bad_start_is_one_error_and_nothing_is_written(fault: str, default: Path, elsewhere: Path, phantom_cache: Path) -> None:
    damage, message = FAULTS[fault]
    damage(default)
    with pytest.raises(CheckpointError, match=message) as caught:
        adapt("default", phantom_cache / "Phantom06_Pair.h5", elsewhere / "model", FAST)
    assert len(str(caught.value).splitlines()) <= 2
    assert not list(elsewhere.iterdir())


def test_a_model_is_no_start_and_a_start_is_no_model(default: Path, elsewhere: Path, phantom_cache: Path) -> None:
    adapt("default", phantom_cache / "Phantom06_Pair.h5", elsewhere / "model", FAST)
    with pytest.raises(CheckpointError, match="holds a model.*expected a start"):
        MetaRun.open("model")
    with pytest.raises(CheckpointError, match="holds a start, expected a model. Fit it to an organ first"):
        Model.load(default)
    with pytest.raises(CheckpointError, match="default is a shipped start, expected a model"):
        Model.load(Path("default"))
    with pytest.raises(CheckpointError, match="no validation chose a state"):
        MetaRun.open("default", "best")


def test_publish_leaves_out_moments_and_older_files(tiny_run: Path, tmp_path: Path) -> None:
    tensors, note = load_state(tiny_run, "last", "meta-state")
    run = tmp_path / "run"
    run.mkdir()
    kept = {key: value for key, value in note.items() if key not in ("sha256", "note_sha256")}
    save_state(run, "last", "meta-state", {**tensors, "features.m": tensors[next(iter(tensors))].clone()}, kept)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "previous.json").write_text("{}")
    found = publish(run, tmp_path / "out", "my_cache", lambda found: {"about.txt": found.sha256})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["about.txt", "last.json", "last.safetensors"]
    again, written = load_state(tmp_path / "out", "last", "meta-state")
    assert set(again) == {name for name in tensors if not name.startswith("features.")}
    assert written["settings"]["cache"] == "my_cache" and written["sha256"] == found.sha256
    assert (tmp_path / "out" / "about.txt").read_text() == found.sha256
    assert found.num_bytes == sum((tmp_path / "out" / f"last.{end}").stat().st_size for end in ("json", "safetensors"))


def test_publish_refuses_a_state_that_is_too_large(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tiny_run, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(starts, "MOST_BYTES", 2**13)
    with pytest.raises(ConfigError, match=r"takes 0\.\d\d MiB, a shipped start at most 0\.01 MiB.*space\.max_width"):
        publish(tiny_run, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_publish_in_half_precision_is_read_as_float32(tiny_run: Path, tmp_path: Path) -> None:
    whole = publish(tiny_run, tmp_path / "whole")
    half = publish(tiny_run, tmp_path / "half", half=True)
    assert half.num_bytes < whole.num_bytes
    own, other = MetaRun.load(tmp_path / "whole"), MetaRun.load(tmp_path / "half")
    for name, value in own.state.weights.items():
        assert other.state.weights[name].dtype == torch.float32
        torch.testing.assert_close(other.state.weights[name], value, rtol=1e-3, atol=1e-7)
    for name, value in own.state.alphas.items():
        assert torch.equal(other.state.alphas[name], value)
    size = state_bytes(build_network(own.settings.space, 0))
    assert size < (tmp_path / "whole" / "last.safetensors").stat().st_size < size + 2**15
    size = state_bytes(build_network(own.settings.space, 0), half=True)
    assert size < (tmp_path / "half" / "last.safetensors").stat().st_size < size + 2**15


def test_a_weight_beyond_half_precision_is_kept_whole(tiny_run: Path, tmp_path: Path) -> None:
    tensors, note = load_state(tiny_run, "last", "meta-state")
    name = next(name for name in tensors if name.startswith("weights."))
    (tmp_path / "run").mkdir()
    kept = {key: value for key, value in note.items() if key not in ("sha256", "note_sha256")}
    save_state(tmp_path / "run", "last", "meta-state", {**tensors, name: torch.full_like(tensors[name], 1e6)}, kept)
    publish(tmp_path / "run", tmp_path / "half", half=True)
    assert torch.equal(load_state(tmp_path / "half", "last", "meta-state")[0][name], torch.full_like(tensors[name], 1e6))


def test_scans_are_noted_across_resumes(tiny_settings: Callable[..., Settings], tmp_path: Path) -> None:
    def note(*names: str, iterations: int, resume: bool = False) -> dict[str, list[str]]:
        (tmp_path / "some.yaml").write_text(json.dumps({"name": "some", "datasets": names}))
        changes = {"tasks.distribution": str(tmp_path / "some.yaml"), "meta.iterations": iterations, "meta.num_validation": 0}
        meta_train(tiny_settings(**changes, **{"meta.batch": 1}), tmp_path / "run", resume)
        return load_state(tmp_path / "run", "last", "meta-state")[1]["scans"]

    first = note("Phantom01_Bean", iterations=1)
    assert list(first) == ["Phantom01_Bean"] and {len(scan) for scan in first["Phantom01_Bean"]} == {12}
    both = note("Phantom05_ShellCore", iterations=2, resume=True)
    assert both["Phantom01_Bean"] == first["Phantom01_Bean"] and len(both["Phantom05_ShellCore"]) > 0
    assert MetaRun.load(tmp_path / "run").scans == {scan for found in both.values() for scan in found}


def test_a_start_knows_the_scans_that_it_learned_from(
    default: Path, elsewhere: Path, phantom_cache: Path, phantoms: Path
) -> None:
    bean = adapt("default", phantom_cache / "Phantom01_Bean.h5", elsewhere / "bean", FAST)["start_has_seen"]
    assert bean == {"this_data_set": True, "related": [], "support": 1, "scored": 0}
    assert json.loads((elsewhere / "bean" / "adaptation.json").read_text())["start_has_seen"] == bean
    shutil.copytree(phantoms / "Phantom01_Bean", elsewhere / "Renamed")
    renamed = adapt("default", elsewhere / "Renamed", elsewhere / "renamed", FAST)["start_has_seen"]
    assert renamed["this_data_set"] and renamed["support"] == 1
