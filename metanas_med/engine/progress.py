"""One progress line for long jobs; silent when not on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress


class Progress:
    """A bar with loss, query Dice, alpha entropy and time left."""

    def __init__(self, total: int, done: int = 0) -> None:
        console = Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("meta-training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, note="")
        self._dice = math.nan

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, done: int, row: Mapping[str, float], seconds_left: float) -> None:
        """Show one iteration's ``row``."""
        self._dice = row.get("query_dice", self._dice)
        minutes, seconds = divmod(int(max(seconds_left, 0)), 60)
        bad = f" bad {row['bad_tasks']:.0f}" if row.get("bad_tasks") else ""
        dice = "" if math.isnan(self._dice) else f"  query Dice {self._dice:.3f}"  # a run without labels never has one
        name = "loss" if "loss" in row else "contrast"
        note = f"{name} {row[name]:.3f}{dice}  alpha entropy {row['alpha_entropy']:.2f}  left {minutes}:{seconds:02d}{bad}"
        self._bar.update(self._task, completed=done, note=note)
