"""The door of launchers: ``@register_launcher("name")`` on a factory that takes the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from ..registry import Registry

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


class Launcher(Protocol):
    """Runs jobs somewhere and returns their results in order."""

    def map(
        self,
        job: Callable[[JobT], ResultT],
        jobs: Iterable[JobT],
        then: Callable[[JobT], Iterable[JobT]] | None = None,
    ) -> Iterator[ResultT]:
        """Yield ``job(each)`` for all ``jobs``, started and yielded in their order.

        ``then(each)`` returns the jobs that depend on a finished one. They start as soon as it is done, and their results
        follow the others. The first error is raised, and jobs that have not started are dropped. They are dropped as well
        after Ctrl-C, and when the caller stops iterating. UserError where the system ended a worker.
        """
        ...


LAUNCHERS: Registry[Launcher] = Registry("launcher")
register_launcher = LAUNCHERS.register


def build_launcher(name: str, workers: int = 1) -> Launcher:
    """Return the launcher ``name`` with at most ``workers`` jobs at a time; ConfigError for an unknown name."""
    return LAUNCHERS.build(name, workers)


def run_all(
    launcher: Launcher,
    job: Callable[[JobT], object],
    jobs: Iterable[JobT],
    then: Callable[[JobT], Iterable[JobT]] | None = None,
) -> None:
    """Run all ``jobs`` and what follows from them, for their effects alone; errors as in `Launcher.map`."""
    for _ in launcher.map(job, jobs, then):
        pass
