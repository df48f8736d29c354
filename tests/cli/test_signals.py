"""Signals: the first saves and leaves with a line that says how to go on, a second Ctrl-C leaves at once."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main
from metanas_med.engine.checkpoint import load_state
from metanas_med.stopping import Stopped, stops, unstopped

MakeSettings = Callable[..., Any]


@pytest.fixture(autouse=True)
def signals_arrive() -> Iterator[None]:
    """A worker of pytest-xdist ignores Ctrl-C."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two instructions


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stopped_meta_training_says_how_to_go_on(
    name: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from metanas_med.engine.meta_train import MetaTraining

    number, row, out = getattr(signal, name), MetaTraining._row, tmp_path / "a run"

    def stop(self: Any, *given: Any) -> Any:
        if self.at.iteration == 3:
            send(number)
        return row(self, *given)

    monkeypatch.setattr(MetaTraining, "_row", stop)
    command = ["meta-train", "--config", str(config), "--out", str(out), "--meta.iterations", "5", "--meta.num_validation", "0"]
    assert main(command) == 128 + number
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == ("stopped" if name == "SIGINT" else f"stopped by {name}")
    assert shown[1].startswith(f"iteration 2 is saved in {out}. To go on: metanas-med meta-train ")
    assert not (out / "figures").exists() and not list(out.glob(".*"))
    again = shlex.split(shown[1].partition("To go on: metanas-med ")[2])
    assert again == [*command, "--resume"]
    monkeypatch.setattr(MetaTraining, "_row", row)
    assert main(again) == 0
    assert load_state(out, "last", "meta-state")[1]["iteration"] == 5


def test_other_commands_say_what_is_kept(
    tiny_run: Path, tiny_model: Path, pair: Path, phantoms: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any, **named: Any) -> None:
        send(signal.SIGTERM)

    monkeypatch.setattr("metanas_med.engine.adapt.adapt_episode", stop)
    monkeypatch.setattr("metanas_med.engine.model.Model.segment", stop)
    monkeypatch.setattr("metanas_med.data.cache.check_case", stop)
    monkeypatch.setattr("metanas_med.data.cache._in_order", stop)
    scans, out = phantoms / "Phantom06_Pair" / "imagesTr", tmp_path / "out"
    expected = {
        (
            "adapt",
            tiny_run,
            pair,
            "--organ",
            "left",
            "--shots",
            "1",
            "--out",
            out,
        ): f"nothing was written to {out}. To start again",
        ("predict", tiny_model, scans, "--out", out): f"label maps in {out} are complete. To go on",
        ("evaluate", tiny_model, pair, "--out", out): f"nothing was written to {out}. To start again",
        ("prepare", phantoms / "Phantom06_Pair", "--cache", out): f"complete data sets in {out} are kept. To go on",
    }
    for command, told in expected.items():
        typed = [str(part) for part in command]
        assert main(typed) == 143
        skip = " --skip-existing" if command[0] == "predict" else ""
        assert capsys.readouterr().err.endswith(f"stopped by SIGTERM\n{told}: metanas-med {shlex.join(typed)}{skip}\n")
        assert not out.exists() or not list(out.iterdir())


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stops():
        send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_signal_waits_until_a_checkpoint_is_written() -> None:
    done = []

    def save(number: int) -> None:
        with unstopped():
            send(number)
            done.append("saved")
        done.append("went on")

    def fail() -> None:
        with unstopped():
            send(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(Stopped) as stop, stops():
        save(signal.SIGTERM)
    assert done == ["saved"] and stop.value.number == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt):  # a program that uses the library
        save(signal.SIGINT)
    assert done == ["saved", "saved"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ZeroDivisionError), stops():  # an error of the block is not hidden
        fail()


def test_one_ctrl_c_that_arrives_twice_is_one() -> None:
    """A terminal sends it to all processes, and a wrapper passes it on."""
    saved = []

    def work() -> None:
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            saved.append(1)

    with pytest.raises(Stopped), stops():
        work()
    assert saved


def test_threads_other_than_the_main_one_are_left_alone() -> None:
    found: list[BaseException] = []

    def work() -> None:
        try:
            with stops(), unstopped():
                pass
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not found


SLOW = """
import time
from metanas_med.stopping import stops
with stops():
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("saving", flush=True)
        time.sleep(30)
"""


def test_a_second_ctrl_c_leaves_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving\n"
    time.sleep(0.7)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=20)
    assert process.returncode == 130 and shown == "stopped at once\n" and time.monotonic() - start < 5


def test_sigterm_ends_a_process_in_seconds_and_the_run_goes_on_to_the_same_bits(
    config: Path, phantom_cache: Path, tmp_path: Path
) -> None:
    """As a batch system or a container ends a job, at a moment that nobody chooses."""
    out = {name: tmp_path / name for name in ("stopped", "whole")}
    given = [
        "meta-train",
        "--config",
        config,
        "--cache",
        phantom_cache,
        "--meta.iterations",
        "12",
        "--meta.num_validation",
        "0",
        "--meta.checkpoint_every",
        "50",
    ]
    command = [sys.executable, "-m", "metanas_med.cli", *map(str, given), "--out", str(out["stopped"])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rows, end = out["stopped"] / "iteration.jsonl", time.monotonic() + 60
    while (not rows.exists() or rows.read_text().count("\n") < 3) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 143 and time.monotonic() - start < 10, shown
    found = re.search(r"iteration (\d+) is saved in .* To go on: python -m metanas_med\.cli meta-train .* --resume\n", shown)
    assert found and 1 <= int(found[1]) < 12  # how far it was depends on the load of the machine
    assert json.loads((out["stopped"] / "last.json").read_text())["iteration"] == int(found[1])
    assert main([*map(str, given), "--out", str(out["stopped"]), "--resume"]) == 0
    assert main([*map(str, given), "--out", str(out["whole"])]) == 0
    states = [load_state(folder, "last", "meta-state")[0] for folder in out.values()]
    assert states[0].keys() == states[1].keys() and all(states[0][n].equal(states[1][n]) for n in states[0])
