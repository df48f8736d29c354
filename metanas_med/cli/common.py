"""What commands share: how they are added to the parser, and how they read and show."""

from __future__ import annotations

import _thread
import argparse
import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from ..errors import UserError, suggest

Command = Callable[[argparse.Namespace, list[str]], None]


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in two lines; the usage of a command alone has ten."""

    commands: dict[str, CommandParser] | None = None  #: by name, of the parser that has them

    def error(self, message: str) -> NoReturn:
        if self.commands and (mistyped := re.match(r"argument ([A-Z]+): invalid choice: '([^']*)'", message)):
            message = f"unknown {mistyped[1].lower()} {mistyped[2]!r}; {suggest(mistyped[2], self.commands)}"
        self.exit(2, f"error: {message}\nSee {self.prog} --help.\n")


class CommandParser(Parser):
    """The parser of one command. What its options do not know is a setting, where the command takes any, or a mistake."""

    takes = ""  #: "module:Class" of its settings inside this package, imported late, because --help must stay quick

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Return the arguments, among them ``settings``: flags and values, wherever they stood."""
        if self.commands:  # the chosen one of them reads the settings
            return super().parse_known_args(args, namespace)
        own: list[str] = []
        settings: list[str] = []
        left = list(args or ())
        while left:
            text = left.pop(0)
            if text == "--":  # what follows is no flag
                own += [text, *left]
                break
            if not text.startswith("--") or self._knows(text.partition("=")[0]):
                own.append(text)
                continue
            self._check_setting(text.partition("=")[0])
            settings.append(text)
            # its value is taken along: argparse would take it for a positional argument
            if "=" not in text and left and not left[0].startswith("--"):
                settings.append(left.pop(0))
        found, rest = super().parse_known_args(own, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        found.settings = settings
        return found, []

    def _knows(self, flag: str) -> bool:
        return any(option.startswith(flag) for option in self._option_string_actions)  # argparse takes beginnings, too

    def _check_setting(self, flag: str) -> None:
        """End where ``flag`` is neither ``--section.key``, which the settings check themselves, nor a setting without a section."""
        known = {option for option in self._option_string_actions if option.startswith("--")}
        if self.takes:
            if "." in flag:
                return
            module, _, name = self.takes.partition(":")
            settings = getattr(importlib.import_module(f"..{module}", __package__), name)
            known |= {f"--{key}" for key in settings.model_fields}
        if flag not in known:
            self.error(f"unknown option {flag}; {suggest(flag, known)}")


class Commands:
    """The commands of a parser; each file of this room adds its own."""

    def __init__(self, parser: Parser, metavar: str = "COMMAND", required: bool = True) -> None:
        text = f"see {metavar} --help"
        self._parsers = parser.add_subparsers(required=required, metavar=metavar, parser_class=CommandParser, help=text)
        parser.commands = self._parsers.choices

    def add(self, name: str, run: Command, text: str, takes: str = "") -> CommandParser:
        """Return the parser of a new command; it takes the settings of ``takes`` ("module:Class") as ``--section.key value``."""
        parser = self._parsers.add_parser(name, help=text, description=text)
        parser.takes = takes
        # given before the command it is the parser's own; a default here would undo it
        parser.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="tell more on the way")
        parser.set_defaults(run=run)
        return parser


def add_config(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the option that names the settings a command starts from."""
    parser.add_argument("--config", default=name, help=f"a YAML file, or the name of a shipped one (default {name})")


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


@contextmanager
def bad_cases_shown() -> Iterator[None]:
    """Within it, an error that names the first of many shows all of them in a table."""
    try:
        yield
    except UserError as error:
        if error.table:
            from ..report.tables import rich_table

            open_console().print(rich_table(error.table, title="bad cases"))
        raise


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
