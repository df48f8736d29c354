"""Two jobs, one folder: the second is refused at once and the first one's result stays; caches are waited for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main
from metanas_med.ownership import owned

from .shared import snapshot

REFUSED = f"is in use by process {os.getpid()} on host "


@contextmanager
def other_job(folder: Path, name: str = "") -> Iterator[None]:
    """Another job, in a thread, owns ``folder``."""
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        with owned(folder, name):
            begun.set()
            end.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(10)
    try:
        yield
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("command", ["adapt", "meta-train", "search", "evaluate", "evaluate folders", "demo"])
def test_the_second_job_in_a_folder_is_refused(
    command: str, tiny_run: Path, tiny_model: Path, pair: Path, phantoms: Path, config: Path, tmp_path: Path, capsys: Any
) -> None:
    out, labels = tmp_path / "one", phantoms / "Phantom06_Pair" / "labelsTr"
    given: dict[str, list[Any]] = {
        "adapt": ["adapt", tiny_run, pair, "--support", "nobody"],
        "meta-train": ["meta-train", "--config", config],
        "search": ["search", phantoms / "Phantom06_Pair", "--config", config],
        "evaluate": ["evaluate", tiny_model, pair],
        "evaluate folders": ["evaluate", "--predictions", labels, "--labels", labels],
        "demo": ["demo"],
    }
    with other_job(out):
        before = snapshot(out)
        assert main([str(a) for a in (*given[command], "--out", out)]) == 2
        shown = capsys.readouterr().err
        assert REFUSED in shown and "Wait for it, or choose another --out." in shown and shown.count("\n") == 1
        assert snapshot(out) == before
    assert not out.exists()


def test_a_model_a_run_and_an_evaluation_do_not_share_a_folder(
    tiny_run: Path, tiny_model: Path, pair: Path, config: Path, tmp_path: Path, capsys: Any
) -> None:
    run, model = (shutil.copytree(path, tmp_path / path.name) for path in (tiny_run, tiny_model))
    before = snapshot(run), snapshot(model)
    for arguments, out in (
        (["adapt", tiny_run, pair, "--organ", "left", "--shots", "1", "--steps", "0"], run),
        (["evaluate", tiny_model, pair], model),
        (["evaluate", tiny_model, pair], run),
        (["meta-train", "--config", config], model),
    ):
        assert main([*map(str, arguments), "--out", str(out)]) == 2
        assert "hold" in capsys.readouterr().err
    assert (snapshot(run), snapshot(model)) == before


def test_label_maps_of_two_models_are_not_mixed(tiny_model: Path, phantoms: Path, tmp_path: Path, capsys: Any) -> None:
    """Without --overwrite, a prediction stops before it replaces the label map of another job."""
    out, scans = tmp_path / "out", phantoms / "Phantom06_Pair"
    with other_job(out, "predict"):
        assert main(["predict", str(tiny_model), str(scans), "--out", str(out), "--overwrite"]) == 2
    assert REFUSED in capsys.readouterr().err and not out.exists()


def test_a_model_that_appears_during_an_adaptation_stays(
    tiny_run: Path, tiny_model: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Such as from a machine that does not see the lock."""
    from metanas_med.engine import adapt as module

    out, score = tmp_path / "one", module.score

    def slow(*given: Any, **named: Any) -> Any:
        shutil.copytree(tiny_model, out, dirs_exist_ok=True)
        return score(*given, **named)

    monkeypatch.setattr(module, "score", slow)
    assert main(["adapt", str(tiny_run), str(pair), "--organ", "left", "--shots", "1", "--steps", "1", "--out", str(out)]) == 2
    assert "already holds a model" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in tiny_model.iterdir()} == {p.name: p.read_bytes() for p in out.iterdir()}


def test_an_adaptation_that_was_killed_while_it_wrote_can_be_repeated(
    tiny_run: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that marks a complete model comes last."""
    from metanas_med.engine.model import Model

    out, move = tmp_path / "one", os.replace
    command = ["adapt", str(tiny_run), str(pair), "--organ", "left", "--shots", "1", "--steps", "1", "--evaluate", "0"]

    def stop(source: Path, target: Path) -> None:
        if Path(target).parent == out and Path(target).name == "model.safetensors":
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", stop)
    assert main([*command, "--out", str(out)]) == 130
    monkeypatch.setattr(os, "replace", move)
    assert main([*command, "--out", str(out)]) == 0
    assert Model.load(out).task.names == ("left",)
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("skip", [True, False])
def test_a_label_map_that_appears_during_a_prediction_stays(
    skip: bool, tiny_model: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, caplog: Any
) -> None:
    from metanas_med.engine.model import Model

    out, segment = tmp_path / "out", Model.segment
    first, second = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[:2]

    def slow(*given: Any, **named: Any) -> Any:
        out.mkdir(exist_ok=True)
        (out / second.name).write_bytes(b"of another job")
        return segment(*given, **named)

    monkeypatch.setattr(Model, "segment", slow)
    code = main(["predict", str(tiny_model), str(first), str(second), "--out", str(out), *["--skip-existing"] * skip])
    shown = capsys.readouterr()
    assert (out / second.name).read_bytes() == b"of another job" and (out / first.name).exists()
    if skip:
        assert code == 0 and "wrote 1 label map(s)" in shown.out and "was written by another job" in caplog.text
    else:
        assert code == 2 and "was written by another job in the meantime" in shown.err


def test_two_jobs_that_need_one_cache_write_it_once(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from metanas_med.data import cache as module

    root, cache, check, checked = phantoms / "Phantom06_Pair", tmp_path / "cache", module.check_case, []

    def slow(*given: Any) -> Any:
        time.sleep(0.1)
        checked.append(given[0].name)
        return check(*given)

    monkeypatch.setattr(module, "check_case", slow)
    found: list[Any] = []
    jobs = [threading.Thread(target=lambda: found.extend(module.prepare([root], cache, workers=1))) for _ in range(2)]
    with ExitStack() as ends:
        for job in jobs:
            job.start()
            ends.callback(job.join)
    assert sorted(row.status for row in found) == ["built", "fresh"] and len(checked) == 6
    assert "cache is in use by process" in caplog.text and "waiting for it" in caplog.text
    assert [p.name for p in cache.iterdir()] == ["Phantom06_Pair.h5"]


def test_two_processes_with_one_folder_leave_one_result(
    tiny_run: Path, pair: Path, config: Path, phantom_cache: Path, tmp_path: Path
) -> None:
    """The commands of two users, started together."""

    def start(*arguments: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "metanas_med.cli", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def train(seed: int) -> list[Any]:
        return ["meta-train", "--config", config, "--cache", phantom_cache, "--out", tmp_path / "run", "--seed", seed]

    def both(make: Callable[[int], list[Any]]) -> list[str]:
        jobs = [start(*make(number)) for number in (1, 2)]
        errors = [job.communicate(timeout=120)[1] for job in jobs]
        assert sorted(job.returncode for job in jobs) == [0, 2], errors
        return errors

    told = "".join(both(train))
    assert "in use by process" in told or "already holds a run" in told
    assert not list((tmp_path / "run").glob(".*"))
