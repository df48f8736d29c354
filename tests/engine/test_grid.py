"""What all grids share: jobs that are handed out in order, and what follows from one that is done."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from metanas_med.engine.grid import work_through


def test_jobs_are_handed_out_in_order_and_what_follows_from_one_once_it_is_done() -> None:
    begun: list[str] = []

    def job(name: str) -> None:
        begun.append(name)
        time.sleep({"slow": 0.5}.get(name, 0.02))

    follow = {"quick": ["after quick", "after quick too"], "slow": ["after slow"], "after slow": ["last"]}
    with ThreadPoolExecutor(2) as pool:
        work_through(pool, job, ["slow", "quick", "third"], lambda done: follow.get(done, []))
    # the second worker goes on while the first one is busy: nothing but what follows from the slow job waits for it
    assert begun == ["slow", "quick", "third", "after quick", "after quick too", "after slow", "last"]


def test_an_error_is_raised_and_what_has_not_begun_is_dropped() -> None:
    begun: list[int] = []

    def job(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)
        if number == 1:
            raise ValueError("the second one")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="the second one"):
        work_through(pool, job, list(range(50)), lambda done: [100 + done])
    assert begun[:2] == [0, 1] and len(begun) < 10
