"""The command as a process: help, missing permissions, closed pipes, Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import build_parser, main


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_a_file_that_cannot_be_read_or_written_is_reported_in_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "/locked/x")

    monkeypatch.setattr("metanas_med.engine.doctor.diagnose", refuse)
    assert main(["doctor"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: cannot read or write /locked/x: ") and os.strerror(number) in shown
    assert shown.count("\n") == 1


def test_a_closed_pipe_and_a_limited_encoding_give_no_traceback(tmp_path: Path) -> None:
    """Like ``metanas-med study benchmark --dry-run | head -1``, and a path that the terminal's encoding cannot represent."""
    run = "import sys; from metanas_med.cli import main; sys.exit(main(sys.argv[1:]))"
    dry_run, doctor = ["study", "benchmark", "--dry-run", "--data", str(tmp_path)], ["doctor", "--cache", str(tmp_path)]
    for arguments in (dry_run, doctor, ["prepare", str(tmp_path), "--cache", str(tmp_path / "cache")]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([sys.executable, "-c", run, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert "Traceback" not in done.stderr and "BrokenPipeError" not in done.stderr and done.returncode != 0
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", run, "doctor", "--cache", f"{tmp_path}/Ω"], env=environment, capture_output=True)
    assert b"Traceback" not in done.stderr and b"\\u03a9" in done.stdout


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_where_python_cannot_raise_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as in callbacks of h5py's weak references, the first Python code that runs after a long write."""

    class Handle:
        pass

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    def work(cache: Path | None) -> list[Any]:
        handle = Handle()
        watched = weakref.ref(handle, interrupt)
        del handle
        assert watched() is None
        for _ in range(100):  # the work continues
            time.sleep(0.05)
        return []

    hook = sys.unraisablehook
    monkeypatch.setattr("metanas_med.engine.doctor.diagnose", work)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
    try:
        assert main(["doctor"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped\n" and sys.unraisablehook is hook


def test_doctor_runs(phantom_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--cache", str(phantom_cache)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("torch", "threads", "wandb", "learn2learn", "Phantom06_Pair"))


def test_every_option_has_a_help_text() -> None:
    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert len(commands.choices) > 10
    for name, each in [("metanas-med", parser), *commands.choices.items()]:
        silent = [action.dest for action in each._actions if not action.help and action is not commands]
        assert not silent, f"{name}: {silent}"
        assert each.format_help()  # an unescaped % in a text would raise an error here


def test_help_imports_no_large_packages() -> None:
    code = (
        "import sys\n"
        "import metanas_med.cli as cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'monai', 'wandb', 'numpy', 'scipy', 'h5py', 'nibabel', 'matplotlib', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {"doctor", "prepare", "download", "phantom", "meta-train", "search", "adapt", "predict", "evaluate", "study", "demo"}
    assert names <= set(re.findall(r"^    ([\w-]+)", done.stdout, re.MULTILINE))
