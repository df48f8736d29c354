"""Launchers: results in the order of the jobs, jobs that follow others, errors, ended workers, and a new launcher in one file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metanas_med import launch
from metanas_med.errors import ConfigError, UserError
from metanas_med.launch import LAUNCHERS, build_launcher, map_in_order, run_all
from metanas_med.registry import import_parts

THREADS = '''"""Threads of this process."""

from concurrent.futures import ThreadPoolExecutor

from metanas_med.launch.ordered import map_in_order
from metanas_med.launch.registry import register_launcher


@register_launcher("threads")
class Threads:
    def __init__(self, workers=1):
        self.workers = workers

    def map(self, job, jobs, then=None):
        with ThreadPoolExecutor(self.workers) as pool:
            yield from map_in_order(pool, job, jobs, then)
'''


def square(number: int) -> int:
    """A job that takes longer for small numbers, so that jobs do not finish in their order."""
    time.sleep(max(0.0, 0.2 - 0.05 * number))
    return number * number


def kill_own_process(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at_one(number: int) -> int:
    if number == 1:
        raise ValueError("the second one")
    return number


@pytest.fixture
def threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A launcher that one file adds."""
    (tmp_path / "threads.py").write_text(THREADS)
    monkeypatch.setattr(launch, "__path__", [*launch.__path__, str(tmp_path)])
    if "threads" not in LAUNCHERS.names():
        import_parts(launch.__name__, launch.__path__)
    return build_launcher("threads", 2)


def test_a_launcher_is_added_in_one_short_file(threads: Any) -> None:
    assert {"processes", "serial", "threads"} <= set(LAUNCHERS.names()) and THREADS.count("\n") < 50
    assert list(threads.map(square, range(5))) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_results_come_in_the_order_of_the_jobs_and_then_of_what_follows(name: str) -> None:
    def then(number: int) -> list[int]:
        return [number + 10] if number in (0, 2) else []

    assert sorted(build_launcher(name, 2).map(square, iter([0, 1, 2]), then)) == [0, 1, 4, 100, 144]
    assert list(build_launcher(name, 2).map(square, [2, 0, 1])) == [4, 0, 1]
    assert list(build_launcher(name, 2).map(square, [])) == []


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_the_first_error_is_raised(name: str) -> None:
    with pytest.raises(ValueError, match="the second one"):
        run_all(build_launcher(name, 1), fail_at_one, [0, 1, 2])


def test_an_unknown_launcher_is_refused_with_the_near_name() -> None:
    with pytest.raises(ConfigError, match="unknown launcher 'proceses'; did you mean 'processes'"):
        build_launcher("proceses")


def test_jobs_start_in_order_and_followers_as_soon_as_their_job_is_done() -> None:
    started: list[str] = []

    def job(name: str) -> str:
        started.append(name)
        time.sleep({"slow": 0.5}.get(name, 0.02))
        return name

    follow = {"quick": ["after quick", "after quick too"], "slow": ["after slow"], "after slow": ["last"]}
    with ThreadPoolExecutor(2) as pool:
        found = list(map_in_order(pool, job, ["slow", "quick", "third"], lambda done: follow.get(done, [])))
    # the second worker continues while the first one is busy: only what follows from the slow job waits for it
    assert started == ["slow", "quick", "third", "after quick", "after quick too", "after slow", "last"]
    assert found == started


@pytest.mark.parametrize("how", ["error", "closed"])
def test_jobs_that_have_not_started_are_dropped(how: str) -> None:
    started: list[int] = []

    def job(number: int) -> int:
        started.append(number)
        time.sleep(0.05)
        return fail_at_one(number) if how == "error" else number

    with ThreadPoolExecutor(1) as pool:
        results = map_in_order(pool, job, list(range(50)), lambda done: [100 + done])
        if how == "error":
            with pytest.raises(ValueError, match="the second one"):
                list(results)
        else:
            assert next(results) == 0
            results.close()  # type: ignore[attr-defined]
    assert started[:2] == [0, 1] and len(started) < 10


def test_a_worker_that_the_system_ends_is_reported() -> None:
    with pytest.raises(UserError, match="the system ended a worker: was memory short"):
        run_all(build_launcher("processes", 1), kill_own_process, [0, 1])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_and_its_workers(name: str, tmp_path: Path) -> None:
    """Ctrl-C reaches a whole process group, as a terminal sends it; a batch system sends SIGTERM to the parent alone."""
    (tmp_path / "job.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored\n"
        "from metanas_med.launch import build_launcher, run_all\n"
        "from metanas_med.stopping import stops\n"
        "def work(number):\n    pathlib.Path(f'started{number}').touch()\n"
        "    try:\n        time.sleep(60)\n    finally:\n        pathlib.Path('saved').touch()\n"
        "if __name__ == '__main__':\n"
        "    try:\n        with stops():\n            run_all(build_launcher('processes', 1), work, range(5))\n"
        "    except KeyboardInterrupt:\n        sys.exit(130)\n"
    )
    run = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "started0").exists() and time.monotonic() < end:
        time.sleep(0.02)
    if name == "SIGINT":
        os.killpg(run.pid, signal.SIGINT)
    else:
        run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 130
    assert [path.name for path in tmp_path.glob("started*")] == ["started0"] and (tmp_path / "saved").exists()
