"""``adapt NAME``, ``suggest --run NAME``, and ``models``: what there is to start from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from metanas_med.cli import main
from metanas_med.engine import starts
from metanas_med.engine.starts import STARTS, publish

from .shared import Refused, snapshot

ADAPT = ("--shots", "1", "--steps", "1", "--evaluate", "1", "--device", "cpu", "--no-images")


@pytest.fixture
def default(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> Path:
    """The folder of a small start that this installation ships as ``default``."""
    shipped = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr(starts, "STARTS", shipped)
    publish(tiny_run, shipped / "default")
    return shipped / "default"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_adapt_default_needs_no_meta_training(default: Path, here: Path, pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "default", str(pair), *ADAPT, "--out", "model"]) == 0
    out = capsys.readouterr().out
    assert "adapted to left" in out and "the start has learned from" not in out
    assert main(["evaluate", "model", str(pair), "--limit", "1", "--out", "evaluation"]) == 0


def test_adapt_says_that_the_start_has_learned_from_the_data_set(
    default: Path, here: Path, phantom_cache: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "the start has learned from this data set: its scores here are not a test of a new organ"
    assert main(["adapt", "default", str(phantom_cache / "Phantom01_Bean.h5"), *ADAPT, "--out", "bean"]) == 0
    assert line in capsys.readouterr().out.splitlines()
    note = json.loads((here / "bean" / "adaptation.json").read_text())["start_has_seen"]
    assert note == {"this_data_set": True, "related": [], "support": 1, "scored": 1}
    # a renamed copy is known by the voxels of its scans
    shutil.copytree(phantoms / "Phantom01_Bean", here / "Mine")
    assert main(["adapt", "default", "Mine", *ADAPT, "--out", "mine"]) == 0
    assert line in capsys.readouterr().out.splitlines()


def test_a_folder_of_a_shipped_name_is_not_taken_by_accident(
    default: Path, here: Path, pair: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (here / "default").mkdir()
    assert main(["adapt", "default", str(pair), *ADAPT, "--out", "model"]) == 0
    assert "For the folder give ./default" in caplog.text
    assert main(["adapt", "./default", str(pair), *ADAPT, "--out", "other"]) == 2
    assert "default holds no last.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("defualt", "did you mean 'default'"),
        ("runs/meta", "known: default"),
        ("default/last.json", "no shipped start and no folder"),
        ("file", "file is a file; expected a shipped start (default) or the folder of a run"),
    ],
)
def test_a_run_that_is_none_is_refused(
    name: str, message: str, default: Path, here: Path, pair: Path, phantoms: Path, refused: Refused
) -> None:
    (here / "file").write_text("x")
    assert message in refused("adapt", name, pair, "--out", here / "model")
    assert message in refused("suggest", phantoms / "Phantom06_Pair", "--run", name)


@pytest.mark.parametrize(
    ("file", "share", "message"),
    [
        ("last.safetensors", 0.0, "is damaged"),
        ("last.safetensors", 0.7, "is damaged"),
        ("last.json", 0.0, "is damaged"),
        ("last.json", 0.7, "is damaged"),
    ],
)
def test_a_truncated_start_is_refused_before_anything_is_written(
    file: str, share: float, message: str, default: Path, here: Path, pair: Path, phantoms: Path, refused: Refused
) -> None:
    whole = (default / file).read_bytes()
    (default / file).write_bytes(whole[: int(share * len(whole))])
    assert message in refused("adapt", "default", pair, "--out", here / "model")
    assert message in refused("suggest", phantoms / "Phantom06_Pair", "--run", "default", "--out", here / "list.json")


def test_an_empty_name_is_no_start(default: Path, here: Path, pair: Path, phantoms: Path, refused: Refused) -> None:
    assert "no shipped start and no folder is called ''" in refused("adapt", "", pair, "--out", here / "model")
    assert "no shipped start and no folder is called ''" in refused("suggest", phantoms / "Phantom06_Pair", "--run", "")


def test_without_a_default_start_the_others_are_listed(
    here: Path, pair: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr(starts, "STARTS", here / "nowhere")
    assert "this installation has no start 'default'; it has: none" in refused("adapt", "default", pair, "--out", here / "m")


def test_suggest_and_doctor_take_a_shipped_start(default: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", str(phantoms / "Phantom06_Pair"), "--run", "default", "--shots", "2", "--device", "cpu"]) == 0
    assert "no --run" not in capsys.readouterr().out
    assert main(["doctor", "default"]) == 0
    assert "million weights" in capsys.readouterr().out


def test_a_start_is_no_model(default: Path, here: Path, pair: Path, phantoms: Path, refused: Refused) -> None:
    scans = phantoms / "Phantom06_Pair"
    assert "default is a shipped start, expected a model" in refused("predict", "default", scans, "--out", here / "p")
    assert "holds a start, expected a model" in refused("evaluate", default, pair, "--out", here / "e")


@pytest.fixture
def folders(default: Path, here: Path, tiny_run: Path, tiny_model: Path) -> Path:
    """A working directory with a run, a model, a damaged run, and what must not be listed."""
    publish(tiny_run, here / "runs" / "meta")
    shutil.copytree(tiny_model, here / "runs" / "organs" / "left")
    publish(tiny_run, here / "broken")
    (here / "broken" / "last.safetensors").write_bytes(b"x")
    publish(tiny_run, here / "runs" / "a" / "b" / "too_deep")
    publish(tiny_run, here / ".hidden")
    (here / "link").symlink_to(here / "runs" / "meta")
    (here / "runs" / "circle").symlink_to(here / "runs")
    (here / "odd[red]\x1b[31m").mkdir()
    (here / "odd[red]\x1b[31m" / "model.json").write_text("{")
    return here


def test_models_lists_shipped_and_local_ones(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(folders)
    assert main(["models", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(found) == ["default", "broken", "odd[red]\x1b[31m", "runs/meta", "runs/organs/left"]
    start, model = found["runs/meta"], found["runs/organs/left"]
    assert found["default"] == {**start, "name": "default", "shipped": True}
    assert (start["kind"], start["space"], start["base_width"]) == ("start", "unet_supernet", 2)
    assert (start["datasets"], start["iterations"], start["problem"]) == (2, 2, "")
    assert (model["kind"], model["organs"], model["scans"], model["problem"]) == ("model", ["left"], 2, "")
    assert start["sha256"] == json.loads((folders / "runs/meta/last.json").read_text())["sha256"]
    assert "is damaged" in found["broken"]["problem"] and "is damaged" in found["odd[red]\x1b[31m"]["problem"]
    assert snapshot(folders) == before


def test_the_table_fits_80_columns(folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    digest = json.loads((folders / "runs/meta/last.json").read_text())["sha256"][:12]
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if not line.startswith(("damaged:", "metanas-med"))]
    assert max(len(line) for line in table) <= 80
    for text in ("default", "runs/meta", "runs/organs/left", "unet_supernet", "left:", "iterations", digest):
        assert text in out
    assert "damaged: broken: broken/last.safetensors is damaged" in out and "\x1b" not in out
    publish(folders / "runs" / "meta", folders / "runs" / "a_name_that_takes_much_room" / "and_one_below_it_as_well")
    assert main(["models", "runs"]) == 0
    out = capsys.readouterr().out
    assert "runs/a_name_that_takes_much_room/and_one_below_it_as_well" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("metanas-med")) <= 80


def test_models_looks_into_given_folders(folders: Path, capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    assert main(["models", "runs/a", "runs/organs/left", "--json"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    assert names == ["default", "runs/a/b/too_deep", "runs/organs/left"]
    assert "nowhere does not exist" in refused("models", "nowhere")
    (folders / "file").write_text("")
    assert "file is a file" in refused("models", "file")


def test_a_card_is_shown(default: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--card", "default"]) == 0
    out = capsys.readouterr().out
    assert "Phantom01_Bean; organs" in out and "held out: Phantom06_Pair" in out and "iterations: 2" in out
    digest = json.loads((default / "last.json").read_text())["sha256"]
    assert f"sha256: {digest}" in out
    card = {"name": "default", "sha256": digest, "limits": ["Not a medical device, " + "and not tested on patients. " * 5]}
    (default / "card.json").write_text(json.dumps(card))
    assert main(["models", "--card", "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == card
    assert main(["models", "--card", str(default)]) == 0
    out = capsys.readouterr().out
    assert "Not a medical device" in out and max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "card.json").write_text("{"), "card.json is damaged"),
        (lambda f: (f / "card.json").write_text("[]"), "does not describe"),
        (lambda f: (f / "card.json").write_text('{"sha256": "0"}'), "does not describe"),
        (lambda f: (f / "last.json").unlink(), "holds no last.json"),
        (lambda f: (f / "last.safetensors").write_bytes(b""), "is damaged"),
    ],
)
def test_a_bad_card_is_refused(damage: Callable[[Path], object], message: str, default: Path, refused: Refused) -> None:
    damage(default)
    assert message in refused("models", "--card", "default")


def test_card_and_folders_exclude_each_other(default: Path, refused: Refused) -> None:
    assert "Give one of the two" in refused("models", "--card", "default", "runs")
    assert "did you mean 'default'" in refused("models", "--card", "defalt")


def test_the_shipped_starts_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    shipped = [entry for entry in json.loads(capsys.readouterr().out) if entry["shipped"]]
    assert {"demo", "demo_joint"} <= {entry["name"] for entry in shipped} and STARTS.is_dir()
    assert not [entry["problem"] for entry in shipped if entry["problem"]]
