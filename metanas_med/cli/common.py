"""What all commands share: how they are added to the parser, read arguments and show results."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import UserError, suggest

if TYPE_CHECKING:
    from ..data.options import ReadOptions

Command = Callable[[argparse.Namespace, list[str]], None]
#: what a stopped command leaves and how to go on, from its arguments and from the command as it was typed
Hint = Callable[[argparse.Namespace, str], str]


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in two lines, without the usage text, which may have ten."""

    commands: dict[str, CommandParser] | None = None  #: by name, if this parser has commands

    def error(self, message: str) -> NoReturn:
        if self.commands and (mistyped := re.match(r"argument ([A-Z]+): invalid choice: '([^']*)'", message)):
            message = f"unknown {mistyped[1].lower()} {mistyped[2]!r}; {suggest(mistyped[2], self.commands)}"
        self.exit(2, f"error: {message}\nSee {self.prog} --help.\n")


class CommandParser(Parser):
    """The parser of one command. An unknown option is a setting, if the command has settings, or a mistake."""

    takes = ""  #: the class of its settings, "module:Class" within the package: its import takes longer than --help may

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Return the arguments; their ``settings`` are the flags and values of settings, from any position."""
        if self.commands:  # the command that is chosen among them reads the settings
            return super().parse_known_args(args, namespace)
        own: list[str] = []
        settings: list[str] = []
        left = list(args or ())
        while left:
            text = left.pop(0)
            if text == "--":  # no flags after this
                own += [text, *left]
                break
            if not text.startswith("--") or self._knows(text.partition("=")[0]):
                own.append(text)
                continue
            self._check_setting(text.partition("=")[0])
            settings.append(text)
            # take its value, too: argparse would treat it as a positional argument
            if "=" not in text and left and not left[0].startswith("--"):
                settings.append(left.pop(0))
        found, rest = super().parse_known_args(own, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        found.settings = settings
        return found, []

    def _knows(self, flag: str) -> bool:
        return any(option.startswith(flag) for option in self._option_string_actions)  # argparse accepts prefixes, too

    def _check_setting(self, flag: str) -> None:
        """Exit if ``flag`` is neither ``--section.key``, which the settings check later, nor a setting without a section."""
        known = {option for option in self._option_string_actions if option.startswith("--")}
        if self.takes:
            if "." in flag:
                return
            module, _, kind = self.takes.partition(":")
            known |= {f"--{key}" for key in getattr(import_module(f"metanas_med.{module}"), kind).model_fields}
        if flag not in known:
            self.error(f"unknown option {flag}; {suggest(flag, known)}")


class Commands:
    """The commands of a parser; each file of this package adds its own."""

    def __init__(self, parser: Parser, metavar: str = "COMMAND", required: bool = True) -> None:
        text = f"see {metavar} --help"
        self._parsers = parser.add_subparsers(required=required, metavar=metavar, parser_class=CommandParser, help=text)
        parser.commands = self._parsers.choices

    def add(self, name: str, run: Command, text: str, takes: str = "", stopped: Hint | None = None) -> CommandParser:
        """Return the parser of a new command; it takes the settings of the class ``takes`` ("module:Class") as ``--section.key value``.

        ``stopped`` says how to go on after a signal.
        """
        parser = self._parsers.add_parser(name, help=text, description=text)
        parser.takes = takes
        # a default here would override the flag when it is given before the command
        parser.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="show more log messages")
        parser.set_defaults(run=run, stopped=stopped)
        return parser


def add_config(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the option that names the configuration file of a command."""
    parser.add_argument("--config", default=name, help=f"YAML file, or the name of a shipped one (default: {name})")


#: the switches of ``ReadOptions``
_READING = {
    "follow_links": "accept links and absolute paths that leave the data set's folder",
    "labels_like_images": "give label maps of the scan's shape the geometry of the scan; for label maps that lost their own",
    "any_intensities": "accept scans whose intensities do not fit those of the others",
}


def add_reading(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the switches for doubtful data (all, or those of ``names``) that a command reads."""
    for name in names or _READING:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=_READING[name])


def reading_of(arguments: argparse.Namespace) -> ReadOptions:
    """Return the switches that ``add_reading`` added."""
    from ..data.options import ReadOptions

    return ReadOptions(**{name: getattr(arguments, name, False) for name in _READING})


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number that is at least ``least``."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, found {value}")
        return value

    return whole_number


def above_zero(text: str) -> float:
    """Return a finite number above zero; an argparse type."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def owning(run: Command) -> Command:
    """Return the command ``run`` as the owner of its folder ``--out``, so that another job there is refused at once."""

    def owner(arguments: argparse.Namespace, rest: list[str]) -> None:
        from ..ownership import owned

        with owned(arguments.out):
            run(arguments, rest)

    return owner


@contextmanager
def bad_cases_shown() -> Iterator[None]:
    """Show all problems in a table if the block raises an error that names only the first."""
    try:
        yield
    except UserError as error:
        if error.table:
            from ..report.tables import rich_table

            open_console().print(rich_table(error.table, title="bad cases"))
        raise


def open_console() -> Any:
    """Return rich's console on standard output, for tables; plain lines use ``print``, because a path may look like markup.

    It never crops: a word that is longer than the line stays whole.
    """
    from rich.console import Console

    return Console(soft_wrap=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that moves the progress of ``what`` (``engine.progress``)."""
    from ..engine.progress import Progress

    with Progress(what, transient=True) as bar:
        yield lambda done, total: bar.update(done, total)


def names_of(given: str | None) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in given.split(",")] if given else []
