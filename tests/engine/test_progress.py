"""The bar of a meta-training: what it shows on a terminal, and that it is quiet elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from metanas_med.engine import progress as module
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.progress import Progress

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


def test_what_the_bar_shows(screen: io.StringIO) -> None:
    with Progress(10, done=3) as bar:
        bar.update(4, ROW, 75.9)
    line = last_line(screen)
    assert all(text in line for text in ("4/10", "loss 0.512", "alpha entropy 0.93", "left 1:15"))
    assert "Dice" not in line and "bad" not in line  # nothing has validated, nothing was bad
    with Progress(10, done=3) as bar:
        bar.update(4, ROW | {"query_dice": 0.75}, 75)
        bar.update(5, ROW | {"bad_tasks": 2.0}, -1)
    line = last_line(screen)
    assert all(text in line for text in ("5/10", "query Dice 0.750", "bad 2", "left 0:00"))  # the Dice last taken stays


def test_it_is_quiet_when_not_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(10) as bar:
        bar.update(4, ROW, 75)
    assert capfd.readouterr() == ("", "")


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
