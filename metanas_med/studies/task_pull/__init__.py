"""``task-pull``: in which directions tasks move the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of task_pull.csv.xz and task_pull.md")
    parser.add_argument(
        "--run", dest="meta_run", metavar="RUN", help="a shipped start or a run's folder; without it only the page is written"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmark/cache"), help="cache (default runs/benchmark/cache)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/task_pull"),
        help="folder of finished moves; the study resumes there (runs/task_pull)",
    )


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.starts import find_start
    from .page import write_page
    from .run import run_task_pull

    if arguments.meta_run is not None:
        run_task_pull(arguments.cache, find_start(arguments.meta_run), arguments.work, arguments.out)
    print(f"page: {write_page(arguments.out)}")


STUDY = Study("task-pull", "in which directions tasks move the weights, by cosines; resumable", _add_arguments, _run)
