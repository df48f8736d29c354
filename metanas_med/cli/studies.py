"""Commands that measure the toolkit itself: bench, first-run, benchmark, unnas, demo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import Commands, add_config, open_console


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    _add_bench(commands)
    _add_first_run(commands)
    _add_benchmark(commands)
    _add_unnas(commands)
    _add_demo(commands)


def _add_bench(commands: Commands) -> None:
    sub = commands.add("bench", _bench, "measure what the main job or the supernet costs here, everything in one run")
    sub.add_argument(
        "what", choices=["job", "supernet", "msd"], help="the main job, the supernet, or a dry run of the full decathlon"
    )
    sub.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of page and CSV files (default runs/bench)")
    sub.add_argument(
        "--quick",
        action="store_true",
        help="job: fewer iterations, 20 steps, a small scan; supernet: fewer repetitions, no Dice at equal cost; msd: one step a task",
    )
    sub.add_argument("--report", action="store_true", help="only write the page, from the CSV files in --out")


def _bench(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..report.tables import rich_table
    from ..studies import bench, bench_job, bench_msd

    if arguments.report:
        tables = {"job": bench_job.report, "supernet": bench.report, "msd": bench_msd.report}[arguments.what](arguments.out)
    else:
        run = {"job": bench_job.bench_job, "supernet": bench.bench_supernet, "msd": bench_msd.bench_msd}[arguments.what]
        tables = run(arguments.out, quick=arguments.quick)
    for title, rows in tables.items():
        open_console().print(rich_table(rows, title=title))
    print(f"CSV files: {arguments.out}")


def _add_first_run(commands: Commands) -> None:
    sub = commands.add(
        "first-run", _first_run, "meta-train without a group, adapt to its organs, compare; resumable", "FirstRunSettings"
    )
    add_config(sub, "first_run")
    sub.add_argument("--report", action="store_true", help="only write the tables from the CSV files")


def _first_run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..studies.first_run import first_run

    first_run(arguments.config, rest, report_only=arguments.report)


def _add_benchmark(commands: Commands) -> None:
    sub = commands.add(
        "benchmark", _benchmark, "few-shot adaptation to held-out organs by competing methods; resumable", "BenchmarkSettings"
    )
    add_config(sub, "benchmark")
    sub.add_argument("--only", default="", help="run only cells whose name holds this, and what they rest on")
    _add_parts(sub, "CSV, tables and figures")


def _add_parts(sub: argparse.ArgumentParser, results: str) -> None:
    """Add the arguments of a grid that is made in parts."""
    sub.add_argument("--report", action="store_true", help=f"only write {results} from the cells that are done")
    sub.add_argument("--dry-run", action="store_true", help="show the cells and the predicted hours")
    sub.add_argument(
        "--merge", type=Path, metavar="FOLDER", help="only take cells from the results that another run published there"
    )


def _benchmark(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..files import csv_path
    from ..report.tables import rich_table
    from ..studies.benchmark import benchmark, merge

    console = open_console()
    only = ["--only", arguments.only] if arguments.only else []
    if arguments.merge:
        print(merge(arguments.config, [*rest, *only], arguments.merge).words)
        return

    def show(outlook: Any) -> None:
        table = [
            {"held out": group, "method": method, "cells": number, "done": outlook.done.get((group, method), 0)}
            for (group, method), number in outlook.cells.items()
        ]
        if arguments.dry_run:
            console.print(rich_table(table))
        print(outlook.words)
        for name, why in outlook.dropped.items():
            print(f"left out: {name}: {why}")

    path = benchmark(arguments.config, [*rest, *only], report_only=arguments.report, dry_run=arguments.dry_run, before=show)
    if path:
        print(f"report: {path}; rows: {csv_path(path.with_name('results.csv'))}")


def _add_unnas(commands: Commands) -> None:
    sub = commands.add("unnas", _unnas, "do label-free tasks rank architectures as labels do? resumable", "UnnasSettings")
    add_config(sub, "unnas")
    _add_parts(sub, "CSV, page and figure")


def _unnas(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..report.tables import rich_table
    from ..studies.unnas import merge, unnas

    console = open_console()
    if arguments.merge:
        print(merge(arguments.config, rest, arguments.merge).words)
        return

    def show(outlook: Any) -> None:
        if arguments.dry_run:
            table = [{"task": task, "cells": n, "done": outlook.done.get(task, 0)} for task, n in outlook.cells.items()]
            console.print(rich_table(table))
        print(
            f"{sum(outlook.cells.values())} cells, {sum(outlook.done.values())} done; predicted for the rest: {outlook.hours:.1f} hours"
        )

    path = unnas(arguments.config, rest, report_only=arguments.report, dry_run=arguments.dry_run, before=show)
    if path:
        print(f"report: {path}; rows: {path.with_name('unnas.csv')}")


def _add_demo(commands: Commands) -> None:
    sub = commands.add("demo", _demo, "what a meta-learned start is worth on organs that it never saw, in minutes", "Settings")
    add_config(sub, "demo_start")
    sub.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of data, runs and results (default runs/demo)")


def _demo(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..studies.demo import demo

    demo(arguments.config, rest, arguments.out)
