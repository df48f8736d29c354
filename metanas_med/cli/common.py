"""What commands share: how they are added to the parser, and how they read and show."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Command = Callable[[argparse.Namespace, list[str]], None]


class Commands:
    """The commands of a parser; each file of this room adds its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, run: Command, text: str, overrides: bool = False) -> argparse.ArgumentParser:
        """Return the parser of a new command; with ``overrides`` it takes settings as ``--section.key value``."""
        parser = self._parsers.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run, overrides=overrides)
        return parser


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number of the command line that is not under ``least``."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, found {value}")
        return value

    return whole_number


def open_console() -> Any:
    """Return a console of rich on standard output, for tables and bars; lines are printed, for a path in one may hold what rich takes for markup."""
    from rich.console import Console

    return Console()


def names_of(given: str | None) -> list[str]:
    """Return names that were given with commas between."""
    return [name.strip() for name in given.split(",")] if given else []
