"""Processes that work through a grid, and the lock that keeps its folder to one run."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ...errors import ConfigError, UserError

JobT = TypeVar("JobT")


def work_through(
    pool: Executor,
    job: Callable[[JobT], None],
    jobs: Sequence[JobT],
    then: Callable[[JobT], Sequence[JobT]] | None = None,
) -> None:
    """Run ``job`` on each of ``jobs``, handed out in order, and on what ``then`` returns of one that is done; the first error is raised.

    After it, as after an interruption (Ctrl-C reaches the workers, too), what has not begun is dropped. Raises UserError where the system
    ended a worker.
    """
    running: dict[Future[None], JobT] = {}
    try:
        running |= {pool.submit(_run_job, job, each): each for each in jobs}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done = running.pop(future)
                future.result()
                running |= {pool.submit(_run_job, job, each): each for each in (then(done) if then else ())}
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BrokenProcessPool as error:
        raise UserError("the system ended a worker: was memory short? What is done is kept; try fewer workers.") from error
    finally:
        for future in running:
            future.cancel()


def _run_job(job: Callable[[JobT], None], argument: JobT) -> None:
    try:
        job(argument)
    except KeyboardInterrupt:
        os._exit(130)  # or the pool would hand this worker the next job


def processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, for forking one that has run torch can hang; they end when this process does."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with, (os.getpid(),))


def _end_with(parent: int) -> None:
    """End this process soon after ``parent`` has gone, however it went: its work would meet that of a grid that goes on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder``, the ``out`` of a grid, for this process within the block; ConfigError where another one has it.

    Drafts of cells that killed processes left are removed first (locked, so that no draft is in the making).
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another run is at work in {folder}. Wait for its end, or choose another folder.") from error
        for draft in (folder / "cells").glob(".*"):
            draft.unlink(missing_ok=True)
        yield
