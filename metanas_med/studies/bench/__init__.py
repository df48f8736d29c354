"""``bench``: what the main job or the supernet costs on this machine, and a dry run of the full decathlon."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=["job", "step", "supernet", "msd"],
        help="the main job, one of its steps, the supernet, or a dry run of the full decathlon",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of page and CSV files (default runs/bench)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="job: fewer iterations, 20 steps, a small scan; step: fewer repetitions; supernet: fewer repetitions, no Dice; msd: one step a task",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="step: another checkout of this code, whose steps take turns with this one's",
    )
    parser.add_argument("--report", action="store_true", help="only write the page, from the CSV files in --out")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.console import Console

    from ...report.tables import rich_table
    from . import job, job_step, msd, supernet

    if arguments.report:
        reports = {"job": job.report, "step": job.report, "supernet": supernet.report, "msd": msd.report}
        tables = reports[arguments.what](arguments.out)
    elif arguments.what == "step":
        job_step.bench_step(arguments.out, arguments.against, arguments.quick)
        tables = job.report(arguments.out)
    else:
        measure = {"job": job.bench_job, "supernet": supernet.bench_supernet, "msd": msd.bench_msd}[arguments.what]
        tables = measure(arguments.out, quick=arguments.quick)
    for title, rows in tables.items():
        Console().print(rich_table(rows, title=title))
    print(f"CSV files: {arguments.out}")


STUDY = Study("bench", "measure what the main job or the supernet costs here, all in one run", _add_arguments, _run)
