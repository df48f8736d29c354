"""The clock of a budget, what a fit costs, and how a fit is laid out for the time it has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

Now = Callable[[], float]  #: a monotonic clock, in seconds

#: steps whose mean duration predicts the next ones
_RECENT = 12


class Budget:
    """Seconds that may be spent. The clock runs from the construction, after ``spent`` seconds of earlier work."""

    def __init__(self, seconds: float, spent: float = 0.0, now: Now = time.monotonic) -> None:
        self.seconds, self.now = seconds, now
        self._start = now() - spent

    @property
    def spent(self) -> float:
        """Seconds since the start, without pauses."""
        return self.now() - self._start

    @property
    def left(self) -> float:
        """Seconds that are left; negative after the end."""
        return self.seconds - self.spent

    @property
    def end(self) -> float:
        """The end on the clock ``now``."""
        return self._start + self.seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block."""
        start = self.now()
        try:
            yield
        finally:
            self._start += self.now() - start


@dataclass(frozen=True)
class Cost:
    """Seconds of the parts of a fit: plan and planned scans, first head, one step, prediction of one whole scan."""

    plan: float
    head: float
    step: float
    predict: float

    def scaled(self, factor: float, step: float = 1.0) -> Cost:
        """Return all parts times ``factor``, a step also times ``step``."""
        return Cost(self.plan * factor, self.head * factor, self.step * factor * step, self.predict * factor)

    def overhead(self, num_left: int) -> float:
        """Return the seconds of a fit without its steps; ``num_left``: scans to predict."""
        return self.plan + self.head + num_left * self.predict

    def steps_in(self, seconds: float, num_left: int = 0) -> int:
        """Return the steps of a fit of ``seconds``; 0 or less: it does not fit."""
        return math.floor((seconds - self.overhead(num_left)) / max(self.step, 1e-9))

    def with_step(self, seconds: float) -> Cost:
        """Return this cost with another duration of a step."""
        return replace(self, step=seconds)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Pacer:
    """Moves the end of a run so that it is reached in time: ``pace`` and ``on_step`` of a task learner.

    The number of steps is laid out again before each step, from the mean duration of the last ones. After half of the run it may
    only fall, because averaging and cooldown have started by then or soon will. ``after(step seconds)`` are the seconds that are
    needed after the last step.
    """

    def __init__(self, end: float, after: Callable[[float], float], step: float, now: Now = time.monotonic) -> None:
        self._end, self._after, self._now = end, after, now
        self._guess = step
        self._ticks: list[float] = []
        self.stopped: Callable[[], bool] = lambda: False  #: whether the run shall end soon
        self.more: Callable[[int, float], None] | None = None  #: also called after each step

    @property
    def step_seconds(self) -> float:
        """Mean duration of the last steps; the given one before the second step."""
        ticks = self._ticks[-_RECENT - 1 :]
        return (ticks[-1] - ticks[0]) / (len(ticks) - 1) if len(ticks) > 1 else self._guess

    def head_seconds(self, begun: float) -> float:
        """Seconds from ``begun`` on the clock to the start of the first step."""
        return max(self._ticks[0] - begun - self.step_seconds, 0.0) if self._ticks else 0.0

    def on_step(self, step: int, loss: float) -> None:
        self._ticks.append(self._now())
        if self.more:
            self.more(step, loss)

    def __call__(self, step: int, total: int) -> int:
        """Return the number of steps of the run, before step ``step`` of ``total``."""
        seconds = self.step_seconds
        left = self._end - self._now() - self._after(seconds)
        fits = step + max(math.floor(left / max(seconds, 1e-9)), 0)
        if self.stopped():
            # a short cooldown ends a run that is cut
            fits = min(fits, step + max(2, step // 20))
        return min(fits, total) if 2 * step > total else fits
