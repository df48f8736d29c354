"""Faults and how they are tried: in a child process with a limit on memory and time."""

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
from contextlib import suppress
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


def attempt_all(faults: Sequence[Fault], folder: Path, seconds: float = SECONDS) -> list[Outcome]:
    """Return how the reader of each fault ends. They run in a forked process; one that hangs or dies is replaced by the next.

    Each fault has ``seconds``, and may take one GiB more than the process has.
    """
    found: list[Outcome] = []
    while len(found) < len(faults):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _run_child(faults, len(found), folder, writing)
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while len(found) < len(faults):
                line = _line(pipe.fileno(), time.monotonic() + seconds)
                if not line:
                    why = ("hung", f"no answer within {seconds:g} s") if line is None else ("crashed", "the process ended")
                    found.append(Outcome(*why, seconds, 0))
                    break
                found.append(Outcome(*json.loads(line)))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return found


def _line(pipe: int, deadline: float) -> bytes | None:
    """Return the next line from ``pipe``; b"" if the writer ended, None after ``deadline``."""
    parts: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        part = os.read(pipe, 1)
        if not part:
            return b""
        parts.append(part)
        if part == b"\n":
            return b"".join(parts)
    return None


def _run_child(faults: Sequence[Fault], first: int, folder: Path, pipe: int) -> None:
    """Write how each reader ends, one line a fault, and end this process."""
    if "torch" in sys.modules:  # threads do not survive a fork
        sys.modules["torch"].set_num_threads(1)
    os.fsync = lambda handle: None  # a power cut is not among the faults, and waiting for the disk takes most of the time
    try:
        for number in range(first, len(faults)):
            place = folder / str(number)
            place.mkdir(parents=True)
            path = faults[number].make(place)
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            ending, text = _try(faults[number], path)
            taken = time.monotonic() - started
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            found = ("too much memory" if grown > BYTES else ending, text, taken, grown)
            os.write(pipe, json.dumps(found).encode() + b"\n")
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    os._exit(0)


def _try(fault: Fault, path: Path) -> tuple[str, str]:
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
