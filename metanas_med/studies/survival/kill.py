"""Processes that run a command and are killed at a moment: forked from this one, or started by the shell's way."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.001
#: not modules, or parts of torch that only a compiler needs
_SKIPPED = re.compile(r"__|triton|torch\._|torch\.(utils\._|testing|onnx|export|ao|distributed)")


@dataclass(frozen=True)
class Moment:
    """When a process is killed: after ``seconds`` of processor time, or once it ``writes`` after that, ``delay`` seconds later.

    Processor time does not depend on what else the machine does.
    """

    seconds: float
    writes: bool = False
    delay: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: killed (``code`` is None), or with an exit code."""

    code: int | None
    seconds: float  #: processor time
    in_write: bool = False  #: whether an unfinished file of the process existed when it was killed


def run_command(arguments: Sequence[str], log: Path, watched: Path, moment: Moment | None = None, real: bool = False) -> Ended:
    """Return how ``metanas-med`` with ``arguments`` ended; it is killed at ``moment``.

    ``watched`` is the folder in which it writes. ``log`` gets its output. A ``real`` process is started as a user does; others
    are forked, which saves the seconds of the imports.
    """

    def job() -> int:
        sys.argv = ["metanas-med", *arguments]
        try:  # as "python -m" does it: studies do not import the commands
            runpy.run_module("metanas_med.cli", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    pid = _started(arguments, log) if real else forked(job, log)
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime)
        if moment and _processor_seconds(pid) >= moment.seconds and (not moment.writes or _unfinished(watched, pid)):
            time.sleep(moment.delay)
            in_write = _unfinished(watched, pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            return Ended(None if code == -signal.SIGKILL else code, used.ru_utime + used.ru_stime, in_write)
        time.sleep(_POLL_SECONDS if moment else 0.01)


def _processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used; infinity if it is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _started(arguments: Sequence[str], log: Path) -> int:
    with open(log, "ab") as output:
        command = [sys.executable, "-m", "metanas_med.cli", *arguments]
        return subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL).pid


def forked(job: Callable[[], int], log: Path) -> int:
    """Return the number of a forked process that runs ``job`` and ends with its exit code."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        import torch

        torch.set_num_threads(1)
        code = job()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def preload(modules: Path) -> None:
    """Import what the text file ``modules`` names, one a line, so that forked processes need not."""
    for name in modules.read_text().split():
        if name not in sys.modules and not _SKIPPED.match(name):
            with suppress(Exception):
                importlib.import_module(name)


def _unfinished(folder: Path, pid: int) -> bool:
    """Return whether an unfinished file or a draft of process ``pid`` lies below ``folder``, at most three levels deep."""
    return _holds(str(folder), f"-{pid}-", 3)


def _holds(folder: str, mark: str, levels: int) -> bool:
    try:
        with os.scandir(folder) as entries:
            below = []
            for entry in entries:
                if entry.name.startswith((".tmp-", ".draft-")) and mark in entry.name:
                    return True
                if levels > 1 and "." not in entry.name:  # folders of a job have no dot in their names
                    below.append(entry.path)
    except OSError:
        return False
    return any(_holds(path, mark, levels - 1) for path in below)


def leftovers(folder: Path) -> list[str]:
    """Return the hidden files below ``folder``: locks, notes of owners, unfinished files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))
