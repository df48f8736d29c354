"""Faults and how they are tried: each in a child process with a limit on memory and time, so that one fault cannot hide another."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import stat
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metanas_med.errors import UserError

SECONDS = 10.0
BYTES = 2**30
#: an error is one or two lines of readable text, whatever the file holds
LONGEST_ERROR = 1500

Make = Callable[[Path], Path]
Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Fault:
    """A file or folder that is damaged or made to do harm, and the reader that meets it.

    ``make`` writes it into an empty folder and returns the path that an error must name. ``read`` gets this path. It must raise a
    UserError, unless ``right`` accepts what it returns: ``right`` compares with what was written before the damage. With
    ``valid`` the input only looks odd, and it must be read.
    """

    name: str
    kind: str
    make: Make
    read: Read
    right: Callable[[Any], bool] | None = None
    valid: bool = False
    named: bool = True  #: the error must hold the name of the path


@dataclass(frozen=True)
class Outcome:
    """How a reader ended: "refused", "read right", "read wrong", "crashed", "hung" or "too much memory"."""

    ending: str
    text: str
    seconds: float
    num_bytes: int  #: growth of the peak resident memory

    def fits(self, fault: Fault) -> bool:
        """Return whether the outcome is one that ``fault`` allows."""
        if self.num_bytes > BYTES:
            return False
        return self.ending == "read right" or (self.ending == "refused" and not fault.valid)


def attempt(fault: Fault, folder: Path, seconds: float = SECONDS) -> Outcome:
    """Return how the reader of ``fault`` ends; it runs in a forked process that gets ``seconds`` and one GiB more than this one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = fault.make(folder)
    reading, writing = os.pipe()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_child(fault, path, writing)
    os.close(writing)
    found = _answer(reading, started + seconds)
    if found is None:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    taken, grown = time.monotonic() - started, max(0, usage.ru_maxrss - before) * 1024
    if found is None:
        return Outcome("hung", f"no answer within {seconds:g} s", taken, grown)
    if not found:
        return Outcome("crashed", f"the process ended with status {status}", taken, grown)
    ending, text = json.loads(found)
    if grown > BYTES:
        ending = "too much memory"
    return Outcome(ending, text, taken, grown)


def _answer(pipe: int, deadline: float) -> bytes | None:
    """Return what the child wrote before it closed ``pipe``; None after ``deadline``."""
    parts = []
    try:
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([pipe], [], [], left)[0]:
                break
            part = os.read(pipe, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
        return None
    finally:
        os.close(pipe)


def _run_child(fault: Fault, path: Path, pipe: int) -> None:
    """Write how the reader ends to ``pipe`` and end this process."""
    try:
        found = _try(fault, path)
    except BaseException as error:
        found = ("crashed", f"{type(error).__name__}: {error}")
    with os.fdopen(pipe, "wb") as out:
        out.write(json.dumps(found).encode())
    os._exit(0)


def _try(fault: Fault, path: Path) -> tuple[str, str]:
    if "torch" in sys.modules:  # threads do not survive a fork
        sys.modules["torch"].set_num_threads(1)
    os.fsync = lambda handle: (
        None
    )  # this process alone: a power cut is not among the faults, and waiting for the disk takes most of the time
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    try:
        value = fault.read(path)
    except UserError as error:
        text = str(error)
        lines = text.splitlines()
        plain = all(character.isprintable() or character == "\n" for character in text)
        if fault.named and path.name not in text:
            return "crashed", f"the error does not name {path.name}: {text}"
        if len(lines) > 3 or len(text) > LONGEST_ERROR or not plain:
            return "crashed", f"the error is no short text: {len(lines)} lines, {len(text)} characters: {text[:300]!r}"
        return "refused", text
    except BaseException as error:
        return "crashed", "".join(traceback.format_exception(error)[-4:])[-1500:]
    if fault.right is not None and fault.right(value):
        return "read right", ""
    return "read wrong", "the reader returned something else than what was written"


def equal(one: Any, other: Any) -> bool:
    """Return whether two arrays hold the same values in the same shape, or two other values are equal."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.shape(one) == np.shape(other) and bool(np.array_equal(one, other))
    return one == other


def counted(faults: Iterable[Fault]) -> dict[str, int]:
    """Return the number of faults of each kind, in the order of their first fault."""
    return dict(Counter(fault.kind for fault in faults))


def make_fifo(path: Path) -> Path:
    """Return ``path`` after making a named pipe there: opening it would wait for a writer for ever."""
    os.mkfifo(path)
    assert stat.S_ISFIFO(path.stat().st_mode)
    return path


def make_link(path: Path, target: str | Path) -> Path:
    """Return ``path`` after making a symbolic link to ``target`` there."""
    os.symlink(target, path)
    return path


def special_files(name: str) -> Sequence[tuple[str, Make]]:
    """Return makers of things called ``name`` that are no ordinary file."""
    return (
        ("a pipe", lambda folder: make_fifo(folder / name)),
        ("a link to a pipe", lambda folder: make_link(folder / name, make_fifo(folder / "pipe"))),
        ("an endless device", lambda folder: make_link(folder / name, "/dev/zero")),
        ("an empty device", lambda folder: make_link(folder / name, "/dev/null")),
        ("a random device", lambda folder: make_link(folder / name, "/dev/urandom")),
        ("a folder", lambda folder: _folder(folder / name)),
        ("a dangling link", lambda folder: make_link(folder / name, "nowhere")),
        ("a link to itself", lambda folder: make_link(folder / name, name)),
        ("links in a circle", lambda folder: make_link(folder / name, make_link(folder / "other", name).name)),
        ("a text file of the system", lambda folder: make_link(folder / name, "/etc/passwd")),
    )


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
