"""A clock for tests: time passes where it is looked at."""

from __future__ import annotations


class Ticker:
    """A clock that advances by ``tick`` seconds whenever it is read; a training step reads it two or three times.

    From the moment ``at`` on (seconds after the first reading) it raises ``error``, once.
    """

    def __init__(self, tick: float = 0.1, at: float = float("inf"), error: type[BaseException] = KeyboardInterrupt) -> None:
        self.tick, self.time, self.at, self.error = tick, 100.0, 100.0 + at, error

    @property
    def passed(self) -> float:
        return self.time - 100.0

    def __call__(self) -> float:
        self.time += self.tick
        if self.time > self.at:
            self.at = float("inf")
            raise self.error
        return self.time
