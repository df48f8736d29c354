"""One job after another in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from .registry import JobT, ResultT, register_launcher


@register_launcher("serial")
class Serial:
    """Runs every job in the calling process; a stack trace and a debugger see all of it."""

    def __init__(self, workers: int = 1) -> None:
        del workers  # there is one

    def map(
        self,
        job: Callable[[JobT], ResultT],
        jobs: Iterable[JobT],
        then: Callable[[JobT], Iterable[JobT]] | None = None,
    ) -> Iterator[ResultT]:
        """Yield the results of ``jobs``; see `Launcher.map`. A job is drawn when it starts, so one at a time is in memory."""
        later: deque[JobT] = deque()
        for each in jobs:
            yield job(each)
            later.extend(then(each) if then else ())
        while later:
            each = later.popleft()
            yield job(each)
            later.extend(then(each) if then else ())
