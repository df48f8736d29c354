"""``benchmark``: a resumable grid of few-shot adaptations to held-out organs by competing methods, and its report."""

from __future__ import annotations

import argparse
from typing import Any

from ..grid.arguments import add_grid_arguments
from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid_arguments(parser, "benchmark", "CSV, tables and figures")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.console import Console

    from ...files import csv_path
    from ...report.tables import rich_table
    from .merge import merge
    from .run import benchmark

    if arguments.merge:
        print(merge(arguments.config, rest, arguments.merge).words)
        return

    def show(outlook: Any) -> None:
        table = [
            {"held out": group, "method": method, "cells": number, "done": outlook.done.get((group, method), 0)}
            for (group, method), number in outlook.cells.items()
        ]
        if arguments.dry_run:
            Console().print(rich_table(table))
        print(outlook.words)
        for name, why in outlook.dropped.items():
            print(f"left out: {name}: {why}")

    path = benchmark(arguments.config, rest, report_only=arguments.report, dry_run=arguments.dry_run, before=show)
    if path:
        print(f"report: {path}; rows: {csv_path(path.with_name('results.csv'))}")


STUDY = Study(
    "benchmark",
    "few-shot adaptation to held-out organs by competing methods; resumable",
    _add_arguments,
    _run,
    takes="studies.benchmark.settings:BenchmarkSettings",
)
