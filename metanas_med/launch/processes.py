"""Fresh processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from ..errors import UserError
from ..stopping import stops
from .ordered import map_in_order
from .registry import JobT, ResultT, register_launcher


@register_launcher("processes")
class Processes:
    """Runs up to ``workers`` jobs at a time in processes that exist for one call of ``map``. Everything passed must be picklable.

    Processes are spawned, because a process that is forked after torch has run can deadlock. They end when this process ends.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def map(
        self,
        job: Callable[[JobT], ResultT],
        jobs: Iterable[JobT],
        then: Callable[[JobT], Iterable[JobT]] | None = None,
    ) -> Iterator[ResultT]:
        """Yield the results of ``jobs``; see `Launcher.map`."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, _end_with_parent, (os.getpid(),)) as pool:
            try:
                yield from map_in_order(pool, partial(_run_job, job), jobs, then)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in multiprocessing.active_children():  # a terminal's Ctrl-C reaches the workers, other signals do not
                    if child.pid and child.is_alive():
                        os.kill(child.pid, signal.SIGTERM)
                raise
            except BrokenProcessPool as error:
                raise UserError(
                    "the system ended a worker: was memory short? What is done is kept; try fewer workers."
                ) from error


def _run_job(job: Callable[[JobT], ResultT], argument: JobT) -> ResultT:
    try:
        with stops():  # the job saves what it has
            return job(argument)
    except KeyboardInterrupt:
        os._exit(130)  # otherwise the pool would give this worker the next job


def _end_with_parent(parent: int) -> None:
    """End this process soon after ``parent`` has ended, for whatever reason; it would interfere with the next run's workers."""

    def watch() -> None:
        if hasattr(signal, "pthread_sigmask"):  # signals interrupt only the thread that gets them: leave them to the main thread
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):  # between two jobs
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(128 + number))
