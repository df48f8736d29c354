"""Progress: what its bar shows on a terminal, and its lines elsewhere."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from metanas_med.cli import main
from metanas_med.engine import progress as module
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.progress import Progress, show_row

ROW = {"loss": 0.5124, "alpha_entropy": 0.931, "bad_tasks": 0.0}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of the bar is sent."""
    stream = io.StringIO()

    def terminal(stderr: bool) -> Console:
        assert stderr  # standard output is for results
        return Console(file=stream, force_terminal=True, color_system=None, width=200)

    monkeypatch.setattr(module, "Console", terminal)
    return stream


def last_line(screen: io.StringIO) -> str:
    (*_, line) = (part for part in screen.getvalue().replace("\r", "\n").splitlines() if "meta-training" in part)
    return line


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == module.__name__]


def test_what_the_bar_shows(screen: io.StringIO) -> None:
    with Progress("meta-training", 10, done=3) as bar:
        show_row(bar, 4, ROW, 75.9)
    line = last_line(screen)
    assert all(text in line for text in ("4/10", "loss 0.512", "alpha entropy 0.93", "left 1:15"))
    assert "Dice" not in line and "bad" not in line  # nothing has validated, nothing was bad
    with Progress("meta-training", 10, done=3) as bar:
        show_row(bar, 4, ROW | {"query_dice": 0.75}, 75)
        show_row(bar, 5, ROW | {"bad_tasks": 2.0}, -1)
    line = last_line(screen)
    assert all(text in line for text in ("5/10", "query Dice 0.750", "bad 2", "left 0:00"))  # the Dice last taken stays


def test_brackets_in_a_name_are_shown(screen: io.StringIO) -> None:
    with Progress("meta-training [a]", 2) as bar:
        bar.update(1, note="best of 2: [red]")
    assert "meta-training [a]" in last_line(screen) and "[red]" in last_line(screen)


def test_a_short_job_logs_nothing_when_not_on_a_terminal(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    with Progress("adapting", 10, clock=clock) as bar:
        for done in range(1, 11):
            clock.now += 2.9
            bar.update(done, figures={"loss": 1.0})
    assert capfd.readouterr() == ("", "") and lines(caplog) == []


def test_a_line_every_thirty_seconds_where_there_is_no_terminal(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with Progress("adapting", 10, clock=clock) as bar:
        for done in range(1, 11):
            clock.now += 10
            bar.update(done, figures={"loss": 1 / done}, note="best: default" if done > 5 else None)
            assert len(lines(caplog)) == done // 3
    assert lines(caplog) == [
        "adapting  3/10  loss 0.333  left 1:10",
        "adapting  6/10  loss 0.167  best: default  left 0:40",
        "adapting  9/10  loss 0.111  best: default  left 0:10",
        "adapting  10/10  loss 0.100  best: default  left 0:00",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert capfd.readouterr() == ("", "")  # a library prints nothing


def test_the_last_state_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Also when the job is interrupted, and not if its line is out already."""
    caplog.set_level(logging.INFO)
    clock = Clock()

    def interrupted() -> None:
        with Progress("adapting", 4, clock=clock) as bar:
            clock.now += 31
            bar.update(1)
            clock.now += 5
            bar.update(2, note="stopped here")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lines(caplog) == ["adapting  1/4", "adapting  2/4  stopped here  left 0:10"]
    caplog.clear()
    with Progress("adapting", 1, clock=clock) as bar:
        clock.now += 40
        bar.update(1)
    assert lines(caplog) == ["adapting  1/1"]


def test_a_budget_of_seconds_gives_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with Progress("adapt", total_seconds=300, clock=clock) as bar:
        clock.now += 45
        bar.update(note="measuring a step")
        clock.now += 45
        bar.update(7, 40, {"loss": 0.5, "best estimate": 0.7312}, note="")
        assert bar.line == "adapt  7/40  loss 0.500  best estimate 0.731  left 3:30"
        clock.now += 400
    assert lines(caplog) == [
        "adapt  measuring a step  left 4:15",
        "adapt  7/40  loss 0.500  best estimate 0.731  left 3:30",
    ]


def test_the_command_line_shows_lines_without_a_level(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], phantoms: Path, tmp_path: Path
) -> None:
    """A log file of a batch job shows how far it is; warnings keep their level."""
    monkeypatch.setattr(module, "EVERY", 0.0)
    root, level = logging.getLogger(), logging.getLogger(module.__name__).level
    handlers = root.handlers[:]
    try:
        root.handlers.clear()  # as in a program of its own
        assert main(["prepare", str(phantoms / "Phantom06_Pair"), "--cache", str(tmp_path)]) == 0
    finally:
        root.handlers[:] = handlers
        logging.getLogger(module.__name__).setLevel(level)
    out, errors = capfd.readouterr()
    assert "cases  5/5" in errors.splitlines()[-1] or "cases  6/6" in errors
    assert "INFO" not in errors and "cases  1/" not in out


def test_a_run_shows_its_own_rows(screen: io.StringIO, tiny_settings: Any, tmp_path: Path) -> None:
    settings = tiny_settings(**{"meta.iterations": 2, "meta.batch": 1, "meta.validate_every": 1})
    folder = meta_train(settings, tmp_path / "run")
    row = json.loads((folder / "iteration.jsonl").read_text().splitlines()[-1])
    expected = (
        "2/2",
        f"loss {row['loss']:.3f}",
        f"query Dice {row['query_dice']:.3f}",
        f"alpha entropy {row['alpha_entropy']:.2f}",
        "left 0:00",
    )
    assert all(text in last_line(screen) for text in expected)
