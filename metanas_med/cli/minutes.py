"""``adapt --minutes``: its options, and what it prints."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .common import above_zero, open_console

if TYPE_CHECKING:
    from ..data.cached import CachedDataset
    from ..engine.adapt import AdaptSettings
    from ..engine.meta_run import MetaRun
    from ..engine.minutes.run import News

#: between two lines where there is no terminal
LINE_SECONDS = 30.0


def add_minutes(sub: argparse.ArgumentParser) -> None:
    """Add the options of a time budget to ``adapt``."""
    sub.add_argument(
        "--minutes",
        type=above_zero,
        help="the time to spend, instead of --steps: chooses a configuration where the time allows it, and says what Dice to expect",
    )
    sub.add_argument("--resume", action="store_true", help="continue what --minutes has left in --out when it was stopped")


def split_flags(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings ``--minutes.key value`` among ``rest``, and all others."""
    own: list[str] = []
    others: list[str] = []
    target = others
    for text in rest:
        if text.startswith("--"):
            target = own if text.startswith("--minutes.") else others
        target.append(text)
    return own, others


def check_minutes(arguments: argparse.Namespace, own: Sequence[str]) -> None:
    """Raise UserError for options that exclude each other, or that have no effect without ``--minutes``."""
    if arguments.minutes is None:
        if own or arguments.resume:
            raise UserError(f"{own[0] if own else '--resume'} has no effect without --minutes M. Give the time to spend.")
        return
    for name, given in (("--steps", arguments.steps), ("--unlabelled", arguments.unlabelled)):
        if given is not None:
            raise UserError(f"--minutes and {name} exclude each other. Give one of the two.")


def run_minutes(
    arguments: argparse.Namespace, run: MetaRun, data: CachedDataset, settings: AdaptSettings, own: Sequence[str]
) -> dict[str, Any]:
    """Return the note of an adaptation with a time budget."""
    from ..config import Section, override
    from ..engine.minutes.run import adapt_minutes
    from ..engine.minutes.settings import MinutesSettings
    from ..engine.starts import find_start

    class Given(Section):
        """The section that ``--minutes.key`` sets."""

        minutes: MinutesSettings = MinutesSettings()

    how = override(Given(), own).minutes
    with search_progress() as on_news:
        return adapt_minutes(
            run,
            data,
            arguments.out,
            arguments.minutes,
            settings,
            how,
            resume=arguments.resume,
            portfolio=find_start(arguments.meta_run),
            on_news=on_news,
        )


@contextmanager
def search_progress() -> Iterator[Callable[[News], None]]:
    """Yield a function that shows where a search is: a bar on a terminal, elsewhere a line every 30 s."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    last = [-LINE_SECONDS]
    columns = (TextColumn("adapt"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task("", total=None, note="")

        def show(news: News) -> None:
            left = duration(max(news.seconds - news.spent, 0.0))
            best = "" if news.best is None else f", Dice about {news.best:.3f}"
            text = f"{news.doing}{best}, {left} left"
            bar.update(job, total=news.seconds, completed=min(news.spent, news.seconds), note=text)
            if not console.is_terminal and news.spent >= last[0] + LINE_SECONDS:
                last[0] = news.spent
                print(text, file=sys.stderr, flush=True)

        yield show


def duration(seconds: float) -> str:
    """Return a time in words: seconds up to two minutes, then minutes."""
    return f"{math.ceil(seconds / 60)} min" if seconds > 120 else f"{math.ceil(seconds)} s"


def minutes_hint(arguments: argparse.Namespace, typed: str) -> str:
    """Return what a stopped ``adapt --minutes`` has left, and how to go on."""
    resume = "" if arguments.resume else " --resume"
    has_model = (arguments.out / "model.json").exists()
    if (arguments.out / "fits" / "search.json").exists():
        best = f"the best model so far is in {arguments.out}" if has_model else f"no model is in {arguments.out} yet"
        return f"{best}. To go on with the rest of the time: {typed}{resume}"
    if has_model:
        return f"the model is complete in {arguments.out}"
    return f"nothing was written to {arguments.out}. To start again: {typed}"


def tell_minutes(note: dict[str, Any], out: Path) -> None:
    """Print what was tried, what was chosen and why, and what Dice to expect."""
    from ..report.tables import rich_table

    about = note["minutes"]
    if len(about["tried"]) > 1:
        rows = [
            {
                "configuration": row["name"] + (" (chosen)" if row["chosen"] else ""),
                "rounds": row["rounds"],
                "steps": row["steps"],
                "Dice": "failed" if row["dice"] is None else f"{row['dice']:.3f}",
                "lead": "" if row["lead"] is None else f"{row['lead']:+.3f}",
                "standard error": "" if row["standard_error"] is None else f"{row['standard_error']:.3f}",
            }
            for row in about["tried"]
        ]
        open_console().print(rich_table(rows, title="Dice on left-out support scans"))
    chosen, expected, spent = about["chosen"], about["expected"], about["seconds"]
    print(f"chosen: {chosen['name']}: {chosen['why']}")
    for key in ("why_averages", "why_tta"):
        if chosen[key]:
            print(f"{'used' if chosen[key.removeprefix('why_')] else 'not used'}: {chosen[key]}")
    print(f"spent {duration(spent['spent'])} of {duration(spent['budget'])}")
    if expected["dice"] is None:
        print(f"Dice to expect on new scans: unknown; {expected['words']}")
    else:
        interval = "" if expected["low"] is None else f" [{expected['low']:.3f}, {expected['high']:.3f}]"
        print(f"Dice to expect on new scans: {expected['dice']:.3f}{interval}; {expected['words']}")
    if (held := about.get("held_back")) and held["inside"] is not None:
        print(f"the Dice of the held-back scans is {'inside' if held['inside'] else 'outside'} this interval")
