"""What commands share: how they are added to the parser, and how they read and show."""

from __future__ import annotations

import _thread
import argparse
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Command = Callable[[argparse.Namespace, list[str]], None]


class Commands:
    """The commands of a parser; each file of this room adds its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, run: Command, text: str, overrides: bool = False) -> argparse.ArgumentParser:
        """Return the parser of a new command; with ``overrides`` it takes settings as ``--section.key value``."""
        parser = self._parsers.add_parser(name, help=text, description=text)
        # given before the command it is the parser's own; a default here would undo it
        parser.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="tell more on the way")
        parser.set_defaults(run=run, overrides=overrides)
        return parser


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number of the command line that is not under ``least``."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, found {value}")
        return value

    return whole_number


@contextmanager
def interrupts_delivered() -> Iterator[None]:
    """Within it, a Ctrl-C that comes where Python cannot raise is raised a little later; without it, it is printed and the work goes on.

    Such places are callbacks of weak references: h5py has one for each of its objects, and it is the first Python code after a long write.
    """
    before = sys.unraisablehook

    def again(lost: Any) -> None:
        if lost.exc_type is not KeyboardInterrupt:
            before(lost)
            return
        timer = threading.Timer(0.05, _thread.interrupt_main)  # later: in this very call it would be lost again
        timer.daemon = True  # it keeps no command that is done from ending
        timer.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def open_console() -> Any:
    """Return a console of rich on standard output, for tables and bars; lines are printed, for a path in one may hold what rich takes for markup."""
    from rich.console import Console

    return Console()


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what takes (done, in all) and moves a bar, on a terminal; elsewhere nothing is shown."""
    from rich.progress import Progress

    console = open_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(job, completed=done, total=total)


def names_of(given: str | None) -> list[str]:
    """Return names that were given with commas between."""
    return [name.strip() for name in given.split(",")] if given else []
