"""The command line that every grid has: run, report, dry run, merge."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


def add_cell_arguments(parser: argparse.ArgumentParser, config: str, report: str, dry_run: str) -> None:
    """Add the options of a study of cells: shipped ``config``, what ``--report`` writes, and what ``--dry-run`` shows."""
    parser.add_argument("--config", default=config, help=f"a YAML file, or the name of a shipped one (default {config})")
    parser.add_argument("--report", action="store_true", help=f"only write {report}")
    parser.add_argument("--dry-run", action="store_true", help=f"show {dry_run}")


def run_cells(
    arguments: argparse.Namespace,
    settings: Any,
    run: Callable[[Any], object],
    publish: Callable[[Any], Path],
    outlook: Callable[[Any], str],
) -> None:
    """Do what the options of ``add_cell_arguments`` ask for, and print what comes out."""
    if arguments.dry_run:
        print(outlook(settings))
        return
    if not arguments.report:
        run(settings)
    print(f"page: {publish(settings)}")
