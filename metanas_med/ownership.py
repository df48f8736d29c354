"""One job at a time in a folder: a lock, and a note that names the job that holds it.

The lock (``.lock``) belongs to the kernel, which releases it when its process ends. Where a file system keeps it from other
machines, the note (``.owner.json``) still names the owner. Both are removed at the end of the job.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InUseError
from .files import check_folder, clear_leftovers, storage_error, write_json
from .machine import boot_id, is_running, machine_tag, pid_namespace, process_start

log = logging.getLogger(__name__)

#: seconds for which a lock may have no readable note: its owner has just started, or is about to end
_UNNAMED_SECONDS = 1.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Owner:
    """A process that works in a folder."""

    host: str
    pid: int
    since: str  #: ISO time with its zone
    command: str
    start: str = ""  #: when the process started, in ticks since the boot; a number that is used again starts later
    boot: str = ""
    namespace: str = ""
    tag: str = ""  #: the machine, as in the names of unfinished files

    @property
    def words(self) -> str:
        """Return who it is: process, host, time and command."""
        with suppress(ValueError):
            since = f"{datetime.fromisoformat(self.since):%Y-%m-%d %H:%M}"
            return f"process {self.pid} on host {self.host} since {since} ({self.command})"
        return f"process {self.pid} on host {self.host} ({self.command})"

    @property
    def is_here(self) -> bool:
        """Return whether it belongs to this machine: in this boot, in another container, or before a restart."""
        return self.host == platform.node() or bool(self.boot and self.boot == boot_id())

    @property
    def has_ended(self) -> bool:
        """Return whether the process is known to have ended; call it while holding the lock.

        The lock was free. On this machine this is enough for a process whose number means nothing here. Otherwise somebody may
        have removed the lock of a running process, so look for the process.
        """
        if not self.is_here:
            return False
        if self.boot != boot_id() or self.namespace != pid_namespace() or self.pid == os.getpid():
            return True
        return not is_running(self.pid) or process_start(self.pid) != self.start


def _this_process() -> Owner:
    pid, since = os.getpid(), datetime.now().astimezone().isoformat(timespec="seconds")
    return Owner(platform.node(), pid, since, _command(), process_start(pid), boot_id(), pid_namespace(), machine_tag())


def _command() -> str:
    """Return the command in a few words, without its arguments, which may name patients."""
    program = Path(sys.argv[0] or "python")
    if program.name == "__main__.py":
        program = program.parent.parent if program.parent.name == "cli" else program.parent
    words = [program.name.replace("metanas_med", "metanas-med")]
    if words[0] == "metanas-med":
        words += [text for text in sys.argv[1:] if not text.startswith("-")][:1]
    return " ".join(words)


@dataclass
class _Held:
    thread: int
    depth: int
    owner: Owner


#: what this process holds, by process (a forked child holds nothing), folder and name
_held: dict[tuple[int, str, str], _Held] = {}
_guard = threading.Lock()


@contextmanager
def owned(
    folder: Path | str, name: str = "", wait: bool = False, advice: str = "Wait for it, or choose another --out."
) -> Iterator[None]:
    """Make this process the owner of ``folder`` within the block; InUseError, which names the owner, if another job holds it.

    ``folder`` is created, and removed at the end if it is empty then. ``name`` distinguishes several kinds of jobs in one folder.
    With ``wait`` it waits for the other job after a warning. The owner is a thread: a function that it calls may own the folder
    as well, another thread may not. What jobs that ended left unfinished in the folder is removed. StorageError if the folder
    is not writable.
    """
    folder = Path(folder)
    key = (os.getpid(), os.path.realpath(folder), name)
    with _guard:
        mine = _held.get(key)
        if mine and mine.thread == threading.get_ident():
            mine.depth += 1
        else:
            mine = None
    if mine:
        try:
            yield
        finally:
            mine.depth -= 1
        return
    check_folder(folder)
    made = [p for p in (folder, *folder.absolute().parents) if not os.path.lexists(p)]
    stem = f".{name}." if name else "."
    lock, note = FileLock(folder / f"{stem}lock", thread_local=False), folder / f"{stem}owner.json"
    try:
        before = _acquire(folder, lock, note, wait, advice)
        try:
            owner = _this_process()
            write_json(note, asdict(owner))
            with _guard:
                _held[key] = _Held(threading.get_ident(), 1, owner)
            if num := clear_leftovers(folder, (before.tag, before.pid) if before else None):
                log.info("removed %d unfinished file(s) of jobs that ended from %s", num, folder)
            yield
        finally:
            if os.getpid() == key[0]:  # a forked child does not end the work of its parent
                with _guard:
                    _held.pop(key, None)
                try:
                    for path in (note, Path(lock.lock_file)):  # while the lock is held: afterwards they are another job's
                        with suppress(OSError):
                            path.unlink(missing_ok=True)
                finally:
                    lock.release()
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()  # fails if the job has left anything


def _acquire(folder: Path, lock: FileLock, note: Path, wait: bool, advice: str) -> Owner | None:
    """Return the owner whose job ended without an end, if there is one, once ``lock`` is held."""
    end, asked = time.monotonic() + _UNNAMED_SECONDS, False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            free = True
        except Timeout:
            free = False
        except FileNotFoundError:  # another job has just removed its empty folder
            continue
        except OSError as error:
            raise storage_error(folder, error) from error
        owner = _read(note)
        if free:
            if owner is None or owner.has_ended:
                if owner:
                    log.info("%s belonged to %s, which has ended without an end; it is taken over", folder, owner.words)
                return owner
            lock.release()
        # a note of a job that ended, while somebody holds the lock: the next owner has not written its note yet
        known = owner if owner and (free or owner.pid == os.getpid() or not owner.has_ended) else None
        if wait:
            if not asked and (known or time.monotonic() > end):
                log.warning("%s is in use by %s; waiting for it", folder, known.words if known else "another process")
                asked = True
        elif known or time.monotonic() > end:
            raise InUseError(_refusal(folder, note, known, lock, advice))
        time.sleep(_POLL_SECONDS)


def _refusal(folder: Path, note: Path, owner: Owner | None, lock: FileLock, advice: str) -> str:
    if owner is None:
        return f"{folder} is in use by another process. {advice}"
    told = f"{folder} is in use by {owner.words}. {advice}"
    if owner.is_here:
        return told
    lock_name = Path(lock.lock_file).name
    return f"{told}\nIf that machine is gone, or the job was killed there, remove {note} and {lock_name} next to it."


def check_owned(folder: Path | str) -> None:
    """Raise InUseError if this job owned ``folder`` and another one has taken it over; call it before the final write.

    Somebody may have removed the files that mark the owner.
    """
    folder = Path(folder)
    mine = _held.get((os.getpid(), os.path.realpath(folder), ""))
    found = _read(folder / ".owner.json") if mine else None
    if mine and found and found != mine.owner:
        raise InUseError(f"{folder} was taken over by {found.words}; this job has written nothing more. Choose another --out.")


def _read(note: Path) -> Owner | None:
    """Return the owner that a note names; None if it is missing or cannot be read."""
    try:
        found = json.loads(note.read_text())
        return Owner(**{**found, "pid": int(found["pid"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
