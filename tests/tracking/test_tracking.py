"""Tracking: local rows survive a crash; wandb, offline, mirrors them and never stops a run."""

from __future__ import annotations

import csv
import json
import logging
import socket
import time
from pathlib import Path

import pytest

from metanas_med.report.figures import curves
from metanas_med.tracking import LocalTracker, Trackers, open_tracker, read_rows

PATIENT = "patient_0815"


def test_local_files(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path / "run")
    tracker.config({"seed": 3, "shots": (1, 2), "where": Path("x")})
    tracker.metrics("iteration", 0, {"loss": 1.5})
    tracker.metrics("iteration", 1, {"loss": float("nan"), "dice": 0.5})
    tracker.metrics("step", 7, {"loss": 0.25})
    figure = tmp_path / "picture.png"
    curves(figure, [{"step": 1, "loss": 2.0}], "step", ["loss"], "Loss")
    tracker.figure("curves/loss", figure)
    tracker.artifact("best", tmp_path / "run" / "best", "checkpoint")
    tracker.summary({"dice": 0.5})
    tracker.summary({"nsd": 0.25})
    tracker.close()
    tracker.close()

    folder = tmp_path / "run"
    assert json.loads((folder / "config.json").read_text()) == {"seed": 3, "shots": [1, 2], "where": "x"}
    assert read_rows(folder / "iteration.jsonl")[1] == {"iteration": 1, "loss": None, "dice": 0.5}
    with open(folder / "iteration.csv") as source:
        assert list(csv.DictReader(source)) == [
            {"iteration": "0", "loss": "1.5", "dice": ""},
            {"iteration": "1", "loss": "", "dice": "0.5"},
        ]
    assert (folder / "step.csv").exists()
    assert (folder / "figures" / "curves_loss.png").read_bytes() == figure.read_bytes()
    assert json.loads((folder / "artifacts.json").read_text()) == {"best": {"kind": "checkpoint", "path": "best"}}
    assert json.loads((folder / "summary.json").read_text()) == {"dice": 0.5, "nsd": 0.25}


def test_resume_repairs_a_cut_line_and_rewinds(tmp_path: Path) -> None:
    first = LocalTracker(tmp_path)
    for iteration in range(5):
        first.metrics("iteration", iteration, {"loss": float(iteration)})
    with open(tmp_path / "iteration.jsonl", "a") as out:
        out.write('{"iteration": 5, "lo')  # as after a power failure
    second = LocalTracker(tmp_path, resume=True)
    second.rewind("iteration", 3)
    second.metrics("iteration", 3, {"loss": 30.0})
    second.rewind("iteration", 4)
    second.metrics("iteration", 4, {"loss": 40.0})
    second.close()
    assert [row["loss"] for row in read_rows(tmp_path / "iteration.jsonl")] == [0.0, 1.0, 2.0, 30.0, 40.0]
    assert len((tmp_path / "iteration.csv").read_text().splitlines()) == 6


def test_a_cut_line_does_not_swallow_the_next_row(tmp_path: Path) -> None:
    (tmp_path / "step.jsonl").write_text(
        '{"step": 0, "loss": 1.0}\n{"step": 1, "loss": 2.0}'
    )  # complete, but without a line break
    tracker = LocalTracker(tmp_path, resume=True)
    tracker.metrics("step", 2, {"loss": 3.0})
    tracker.close()
    assert [row["step"] for row in read_rows(tmp_path / "step.jsonl")] == [0, 1, 2]


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        tracker = LocalTracker(tmp_path)
        tracker.metrics("step", 0, {"loss": loss})
        tracker.summary({f"loss_{loss}": loss})
        tracker.close()
    assert read_rows(tmp_path / "step.jsonl") == [{"step": 0, "loss": 2.0}]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"loss_2.0": 2.0}


def test_real_wandb_offline(offline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = open_tracker(offline, wandb=True, name="trial", kind="adapt")
    assert isinstance(tracker, Trackers) and tracker.mirror is not None
    tracker.config({"seed": 3, "cache": f"/data/{PATIENT}", "scan": f"{PATIENT}.nii.gz", "space": {"name": "marker_space"}})
    for step in range(3):
        tracker.metrics("step", step, {"marker_loss": 1.0 / (step + 1)})
    picture = tmp_path / f"{PATIENT}.png"
    curves(picture, [{"step": 1, "loss": 2.0}], "step", ["loss"], "Loss")
    tracker.figure("marker_curves", picture)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "model.json").write_text(json.dumps({"settings": {"cache": f"/data/{PATIENT}"}}))
    (model / "architecture.json").write_text("{}")
    (model / "adaptation.json").write_text(json.dumps({"support": [PATIENT]}))
    (model / ".draft.x").mkdir()  # left by a killed run
    (model / ".draft.x" / "model.safetensors").write_bytes(b"half of the weights")
    tracker.artifact("marker_model", model, "model")
    tracker.summary({"dice": 0.75})
    tracker.close()

    # records of wandb's own logger may appear, depending on what ran in this process before
    assert tracker.mirror is not None and not [r for r in caplog.records if r.name.startswith("metanas_med")]
    runs = list((offline / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    (record,) = runs[0].glob("*.wandb")
    written, deadline = record.read_bytes(), time.monotonic() + 60
    while b"0.75" not in written and time.monotonic() < deadline:  # wandb's own process may still be writing the end
        time.sleep(0.1)
        written = record.read_bytes()
    for marker in (
        b"marker_space",
        b"marker_loss",
        b"marker_curves",
        b"marker_model",
        b"model.safetensors",
        b"model.json",
        b"architecture.json",
    ):
        assert marker in written
    assert b".draft.x" not in written
    assert list((runs[0] / "files" / "media" / "images").glob("marker_curves*.png"))
    uploaded = [path for path in (*runs[0].rglob("*"), *(tmp_path / "elsewhere").rglob("*")) if path.is_file()]
    for path in uploaded:
        if "logs" in path.parts:
            continue  # wandb's own debug logs stay on this machine
        assert PATIENT.encode() not in path.read_bytes() and PATIENT not in path.name, path
        assert b"adaptation.json" not in path.read_bytes(), path
    host = socket.gethostname().encode()
    assert len(host) < 8 or host not in written  # a short name can appear among random bytes by chance
    assert json.loads((offline / "summary.json").read_text()) == {"dice": 0.75}


def test_a_failing_mirror_never_stops_a_run(
    offline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(offline, wandb=True)
    assert isinstance(tracker, Trackers) and tracker.mirror is not None

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the service is on fire")

    monkeypatch.setattr(type(tracker.mirror.run), "log", broken)  # pyright: ignore[reportAttributeAccessIssue]
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            tracker.metrics("step", step, {"loss": 1.0})
        tracker.summary({"dice": 0.5})
        tracker.close()
    assert tracker.mirror is None
    assert len([record for record in caplog.records if "on fire" in record.message]) == 1
    assert len(read_rows(offline / "step.jsonl")) == 3


def test_a_mirror_that_cannot_start_is_ignored(
    offline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb
    from wandb.errors import CommError

    def broken(*_: object, **__: object) -> None:
        raise CommError("no network")

    monkeypatch.setattr(wandb, "init", broken)
    tracker = open_tracker(offline, wandb=True)
    tracker.metrics("step", 0, {"loss": 1.0})
    tracker.close()
    assert "no network" in caplog.text
    assert read_rows(offline / "step.jsonl") == [{"step": 0, "loss": 1.0}]


def test_a_damaged_record_does_not_stop_a_resumed_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The checkpoint holds all that a run needs; the damaged rows stay in a copy."""
    rows = '{"step": 0, "loss": 1.0}\n{"a": 1}\n{"st\n[3]\n{"step": 2, "loss": 2.0}\n'
    (tmp_path / "step.jsonl").write_text(rows)
    (tmp_path / "summary.json").write_text('{"dice": 0.')
    tracker = LocalTracker(tmp_path, resume=True)
    tracker.rewind("step", 3)
    tracker.summary({"nsd": 0.5})
    tracker.close()
    assert [row["step"] for row in read_rows(tmp_path / "step.jsonl")] == [0, 2]
    assert (tmp_path / "step.jsonl.damaged").read_text() == rows and "left out 3 damaged row(s)" in caplog.text
    assert json.loads((tmp_path / "summary.json").read_text()) == {"nsd": 0.5} and "summary.json was damaged" in caplog.text
