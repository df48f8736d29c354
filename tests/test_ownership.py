"""One job at a time in a folder: refusals name the owner, owners that ended are replaced, nothing is left behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metanas_med.errors import InUseError, StorageError
from metanas_med.files import atomic_folder, atomic_path, clear_leftovers
from metanas_med.machine import machine_tag
from metanas_med.ownership import check_owned, owned

#: a process that holds a folder until it is killed, or until its input ends
HOLD = """
import sys
from metanas_med.ownership import owned
sys.argv = ["/usr/bin/metanas-med", "-v", "adapt", "secret-name"]
with owned(sys.stdin.readline().strip()):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """``hold(folder)`` returns a process that owns ``folder``."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdin and process.stdout
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_of_another_process_is_refused_with_its_owner(tmp_path: Path, hold: Any) -> None:
    process = hold(tmp_path / "out")
    expected = (
        rf"out is in use by process {process.pid} on host \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d \(metanas-med adapt\)\. Wait"
    )
    with pytest.raises(InUseError, match=expected), owned(tmp_path / "out"):
        raise AssertionError
    assert "secret" not in (tmp_path / "out" / ".owner.json").read_text()
    process.communicate("\n")  # it ends as it should
    assert not (tmp_path / "out").exists()
    with owned(tmp_path / "out"):
        pass


def test_a_killed_owner_is_replaced_and_its_unfinished_files_go(
    tmp_path: Path, hold: Any, caplog: pytest.LogCaptureFixture
) -> None:
    process, other = hold(tmp_path), hold(tmp_path / "else")
    for pid in (process.pid, other.pid):
        (tmp_path / f".tmp-{machine_tag()}-{pid}-abcdefgh.last.json").write_text("half")
        (tmp_path / "cells" / f".draft-{machine_tag()}-{pid}-abcdefgh").mkdir(parents=True)
    (tmp_path / ".settings.json").write_text("of the user")
    process.send_signal(signal.SIGKILL)  # nobody collects it: a zombie does not own anything
    deadline = time.monotonic() + 5
    while ") Z " not in Path(f"/proc/{process.pid}/stat").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    with caplog.at_level(logging.INFO), owned(tmp_path):
        assert json.loads((tmp_path / ".owner.json").read_text())["pid"] == os.getpid()
    assert f"belonged to process {process.pid}" in caplog.text and not [r for r in caplog.records if r.levelno >= logging.WARNING]
    kept = f".tmp-{machine_tag()}-{other.pid}-abcdefgh.last.json"  # of a running process
    assert names(tmp_path) == sorted([kept, ".settings.json", "cells", "else"]) and len(names(tmp_path / "cells")) == 1


def note(folder: Path, **changes: Any) -> None:
    """Leave the note of an owner that this process was, with ``changes``."""
    with owned(folder):
        found = json.loads((folder / ".owner.json").read_text())
    (folder / ".owner.json").write_text(json.dumps(found | changes))


def test_owners_that_ended_are_recognised(tmp_path: Path) -> None:
    alive = os.getppid()
    for changes in (
        {"pid": 2**22 + 7},  # no such process
        {"pid": alive, "start": "1"},  # its number is in use again
        {"pid": alive, "boot": "of another start of this machine"},
        {"host": "a-container", "namespace": "pid:[1]"},  # on this machine, in a container that is gone
    ):
        note(tmp_path, **changes)
        with owned(tmp_path):
            pass
        assert names(tmp_path) == []
    (tmp_path / ".owner.json").write_text("{")  # a power cut
    with owned(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_running_process_keeps_its_folder_without_its_lock(tmp_path: Path) -> None:
    """Somebody has removed the lock file, or the file system has no locks."""
    from metanas_med.machine import process_start

    note(tmp_path, pid=os.getppid(), start=process_start(os.getppid()))
    with pytest.raises(InUseError, match=f"in use by process {os.getppid()} "), owned(tmp_path):
        raise AssertionError
    assert (tmp_path / ".owner.json").exists()


def test_another_machine_is_named_with_what_to_remove(tmp_path: Path) -> None:
    note(tmp_path, host="node17", boot="another", pid=12, command="metanas-med meta-train")
    with pytest.raises(
        InUseError, match=r"process 12 on host node17 since .*\nIf that machine is gone.*remove .*\.owner\.json and"
    ):
        with owned(tmp_path):
            raise AssertionError
    (tmp_path / ".owner.json").unlink()
    with owned(tmp_path):
        pass


def test_two_threads_do_not_both_own_a_folder_but_a_called_function_may(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with owned(tmp_path):
                refused.append("owned")
        except InUseError as error:
            refused.append(str(error))

    with owned(tmp_path):
        with owned(tmp_path / "."):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert (tmp_path / ".lock").exists()  # the inner block does not end the outer one
        with owned(tmp_path, "cache"):
            assert (tmp_path / ".cache.owner.json").exists()
    assert len(refused) == 1 and f"in use by process {os.getpid()} " in refused[0]
    assert names(tmp_path) == []


def test_a_waiting_job_goes_on_when_the_owner_ends(tmp_path: Path, hold: Any, caplog: pytest.LogCaptureFixture) -> None:
    process = hold(tmp_path)
    timer = threading.Timer(0.5, process.kill)
    timer.start()
    start = time.monotonic()
    with owned(tmp_path, wait=True):
        assert time.monotonic() - start > 0.4
    assert f"in use by process {process.pid}" in caplog.text and "waiting for it" in caplog.text


def test_only_one_of_many_gets_a_folder(tmp_path: Path) -> None:
    """Four processes add one to a number in a file, 25 times each: with two owners at a time some would be lost."""
    program = (
        "import sys, pathlib\nfrom metanas_med.errors import InUseError\nfrom metanas_med.ownership import owned\n"
        "path, done = pathlib.Path(sys.argv[1]), 0\n"
        "while done < 25:\n"
        "    with owned(path / 'place', wait=True):\n"
        "        value = int((path / 'number').read_text())\n"
        "        (path / 'number').write_text(str(value + 1))\n"
        "    done += 1\n"
    )
    (tmp_path / "number").write_text("0")
    (tmp_path / "place").mkdir()
    jobs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [job.communicate(timeout=60)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, errors
    assert (tmp_path / "number").read_text() == "100" and names(tmp_path / "place") == []


def test_a_job_notices_that_it_lost_its_folder(tmp_path: Path) -> None:
    check_owned(tmp_path)  # nobody owns it: nothing to check
    with owned(tmp_path):
        check_owned(tmp_path)
        found = json.loads((tmp_path / ".owner.json").read_text())
        (tmp_path / ".owner.json").write_text(json.dumps(found | {"pid": 1, "command": "metanas-med adapt"}))
        with pytest.raises(InUseError, match="was taken over by process 1 "):
            check_owned(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, expected a folder"), owned(tmp_path / "file"):
        raise AssertionError
    with pytest.raises(KeyError), owned(tmp_path / "new" / "run"):
        raise KeyError
    assert names(tmp_path) == ["file"]


def test_files_of_running_jobs_are_not_leftovers(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.json") as temporary, atomic_folder(tmp_path / "b") as draft:
        temporary.write_text("x")
        assert clear_leftovers(tmp_path) == 0 and draft.exists() and temporary.exists()
    assert names(tmp_path) == ["a.json", "b"]
    for name in (".draft.abcdefgh", ".abcdefgh.Task.h5", ".tmp-ffffff-1-abcdefgh.last.json"):  # of older versions, of elsewhere
        (tmp_path / name).write_text("")
    assert clear_leftovers(tmp_path) == 0
    for path in tmp_path.glob(".*"):
        os.utime(path, (1, 1))
    assert clear_leftovers(tmp_path) == 3 and names(tmp_path) == ["a.json", "b"]
