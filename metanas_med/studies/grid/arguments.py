"""The command line that every grid has: run, report, dry run, merge."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..registry import Study

if TYPE_CHECKING:
    from .published import Merged


class Outlook(Protocol):
    """What a grid will do."""

    @property
    def table(self) -> Sequence[Mapping[str, Any]]:
        """Return the cells and how many are done, for a dry run."""
        ...

    @property
    def lines(self) -> Sequence[str]:
        """Return how much there is to do and how long it will take."""
        ...


def add_grid_arguments(parser: argparse.ArgumentParser, config: str, results: str) -> None:
    """Add the options of a grid whose shipped configuration is ``config`` and that writes ``results`` (in words)."""
    parser.add_argument("--config", default=config, help=f"a YAML file, or the name of a shipped one (default {config})")
    parser.add_argument("--report", action="store_true", help=f"only write {results} from the cells that are done")
    parser.add_argument("--dry-run", action="store_true", help="show the cells and the predicted hours")
    parser.add_argument("--merge", type=Path, metavar="FOLDER", help="only take over the cells that a run published in FOLDER")


def run_grid(
    arguments: argparse.Namespace,
    rest: list[str],
    run: Callable[..., Path | None],
    merge: Callable[[str, Sequence[str], Path], Merged],
    csv: str,
) -> None:
    """Do what the options ask for with ``run`` and ``merge`` of a grid, and print what comes out. ``csv``: the file of its rows."""
    from rich.console import Console

    from ...files import csv_path
    from ...report.tables import rich_table

    if arguments.merge:
        print(merge(arguments.config, rest, arguments.merge).words)
        return

    def show(outlook: Outlook) -> None:
        if arguments.dry_run:
            Console().print(rich_table(outlook.table))
        print(*outlook.lines, sep="\n")

    path = run(arguments.config, rest, report_only=arguments.report, dry_run=arguments.dry_run, before=show)
    if path:
        print(f"report: {path}; rows: {csv_path(path.with_name(csv))}")


def cell_study(name: str, about: str, package: str, *, config: str, report: str, dry_run: str, settings: str) -> Study:
    """Return the study ``name`` of cells, in the package ``studies/<package>``.

    The package has ``settings.py`` with the class ``settings``, ``run.py`` with ``run_<package>(settings)`` and ``outlook(settings)``,
    and ``page.py`` with ``publish(settings)``. ``config`` is its shipped configuration. ``report`` and ``dry_run`` say what these
    options write and show.
    """

    def part(module: str) -> Any:
        return importlib.import_module(f"..{package}.{module}", __package__)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--config", default=config, help=f"a YAML file, or the name of a shipped one (default {config})")
        parser.add_argument("--report", action="store_true", help=f"only write {report}")
        parser.add_argument("--dry-run", action="store_true", help=f"show {dry_run}")

    def run(arguments: argparse.Namespace, rest: list[str]) -> None:
        from ...engine.settings import load_settings
        from ...resources import find_resource

        chosen = load_settings(find_resource("configs", arguments.config), rest, getattr(part("settings"), settings))
        if arguments.dry_run:
            print(part("run").outlook(chosen))
            return
        if not arguments.report:
            getattr(part("run"), f"run_{package}")(chosen)
        print(f"page: {part('page').publish(chosen)}")

    return Study(name, about, add_arguments, run, takes=f"studies.{package}.settings:{settings}")
