"""Results in the order of the jobs, for every launcher that has an executor of ``concurrent.futures``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

from .registry import JobT, ResultT


def map_in_order(
    pool: Executor,
    job: Callable[[JobT], ResultT],
    jobs: Iterable[JobT],
    then: Callable[[JobT], Iterable[JobT]] | None = None,
) -> Iterator[ResultT]:
    """Yield the results of ``jobs`` on ``pool`` as `Launcher.map` describes."""
    unfinished: dict[Future[ResultT], JobT] = {}
    order: deque[Future[ResultT]] = deque()

    def submit(more: Iterable[JobT]) -> None:
        for each in more:
            future = pool.submit(job, each)
            unfinished[future] = each
            order.append(future)

    try:
        submit(jobs)
        while unfinished:
            for future in wait(unfinished, return_when=FIRST_COMPLETED).done:
                done = unfinished.pop(future)
                future.result()  # raises the job's error
                submit(then(done) if then else ())
            while order and order[0] not in unfinished:
                yield order.popleft().result()
    finally:
        for future in unfinished:
            future.cancel()
