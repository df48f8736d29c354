"""The progress of long jobs: a bar on a terminal, elsewhere a line in the log every 30 seconds."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

log = logging.getLogger(__name__)  #: INFO; the command line shows it on standard error, a program that uses the library chooses

#: seconds between two lines where there is no terminal; a shorter job logs none
EVERY = 30.0


class Progress:
    """A bar or lines with what is done, figures such as the loss and the best estimate so far, and the time left.

    ``what`` names the job. Its end is a number of items (``total``, of which ``done`` are done before), or ``total_seconds``
    from its start. Without a terminal, a line is logged at INFO by the first update that is at least ``EVERY`` seconds after
    the last line or the start, and one at the end of a job that took as long. ``clock`` gives seconds.

        with Progress("adapt", total_seconds=300) as bar:
            bar.update(12, 40, {"loss": 0.41}, note="best of 3: levels=3")
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        done: float = 0,
        *,
        total_seconds: float | None = None,
        transient: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._done, self._total_seconds, self._clock = what, total, done, total_seconds, clock
        self._figures: dict[str, float] = {}
        self._note = ""
        self._left: float | None = None  #: as the job says; None: from its pace
        self._start = self._logged = clock()
        self._first: tuple[float, float] | None = None  #: time and items after the first one: set-up before it has no pace
        self._is_new = False  #: whether anything changed since the last line
        console = Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            TextColumn("{task.fields[more]}"),
            console=console,
            transient=transient,
            disable=not console.is_terminal,
            # results that go to a file stay there
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("", total=None, text=what, more="")

    def __enter__(self) -> Progress:
        self._start = self._logged = self._clock()
        self._bar.start()
        self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        if self._is_new and self._clock() - self._start >= EVERY:
            self._log()

    def update(
        self,
        done: float | None = None,
        total: float | None = None,
        figures: Mapping[str, float] | None = None,
        *,
        note: str | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """Show the state of the job; what is not given stays.

        ``figures`` by name are shown with three decimals. ``seconds_left`` replaces the estimate, which is made from the pace.
        """
        now = self._clock()
        if done is not None:
            if self._first is None and done > self._done:
                self._first = (now, done)
            self._done = done
        self._total = self._total if total is None else total
        self._figures |= figures or {}
        self._note = self._note if note is None else note
        self._left = seconds_left
        self._is_new = True
        self._show()
        if self._bar.disable and now - self._logged >= EVERY:
            self._log()

    @property
    def line(self) -> str:
        """The state of the job as one line."""
        return "  ".join(part for part in (self._text(), self._more()) if part)

    def _text(self) -> str:
        counts = "" if self._total is None else f"  {self._done:g}/{self._total:g}"
        return f"{self._what}{counts}"

    def _more(self) -> str:
        figures = [f"{name} {value:.3f}" for name, value in self._figures.items() if not math.isnan(value) or name == "loss"]
        left = self._seconds_left()
        minutes, seconds = divmod(int(max(left or 0.0, 0.0)), 60)
        return "  ".join(part for part in (*figures, self._note, "" if left is None else f"left {minutes}:{seconds:02d}") if part)

    def _seconds_left(self) -> float | None:
        now = self._clock()
        if self._left is not None:
            return self._left
        if self._total_seconds is not None:
            return self._total_seconds - (now - self._start)
        if self._total is None or self._first is None or self._done <= self._first[1]:
            return None
        since, first = self._first
        return (now - since) / (self._done - first) * (self._total - self._done)

    def _show(self) -> None:
        if self._total_seconds:
            share: float | None = min((self._clock() - self._start) / self._total_seconds, 1.0)
        else:
            share = self._done / self._total if self._total else None
        # brackets in a name would be markup
        total = None if share is None else 1.0
        self._bar.update(self._task, total=total, completed=share or 0.0, text=_plain(self._text()), more=_plain(self._more()))

    def _log(self) -> None:
        self._logged, self._is_new = self._clock(), False
        log.info("%s", self.line)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def show_row(bar: Progress, done: int, row: Mapping[str, float], seconds_left: float) -> None:
    """Show the tracked values ``row`` of an iteration of meta-training; a query Dice stays until the next validation."""
    name = "loss" if "loss" in row else "contrast"
    figures = {name: row[name]}
    if "query_dice" in row:  # a run without labels never has one
        figures["query Dice"] = row["query_dice"]
    bad = f"  bad {row['bad_tasks']:.0f}" if row.get("bad_tasks") else ""
    bar.update(done, figures=figures, note=f"alpha entropy {row['alpha_entropy']:.2f}{bad}", seconds_left=seconds_left)
