"""``unnas``: do label-free tasks rank architectures as labels do? A resumable grid of trainings, and its report."""

from __future__ import annotations

import argparse
from typing import Any

from ..grid.arguments import add_grid_arguments
from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid_arguments(parser, "unnas", "CSV, page and figure")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.console import Console

    from ...report.tables import rich_table
    from .merge import merge
    from .run import unnas

    if arguments.merge:
        print(merge(arguments.config, rest, arguments.merge).words)
        return

    def show(outlook: Any) -> None:
        if arguments.dry_run:
            table = [{"task": task, "cells": n, "done": outlook.done.get(task, 0)} for task, n in outlook.cells.items()]
            Console().print(rich_table(table))
        print(outlook.words)

    path = unnas(arguments.config, rest, report_only=arguments.report, dry_run=arguments.dry_run, before=show)
    if path:
        print(f"report: {path}; rows: {path.with_name('unnas.csv')}")


STUDY = Study(
    "unnas",
    "do label-free tasks rank architectures as labels do? resumable",
    _add_arguments,
    _run,
    takes="studies.unnas.settings:UnnasSettings",
)
