"""``ablation``: choices of the adaptation compared on the benchmark's development groups."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of ablation.csv and ablation.md; the study resumes there")
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmark/cache"), help="cache (default runs/benchmark/cache)")
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="meta-trainings that held out development groups; none: only write the page",
    )


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.starts import find_start
    from .run import run_ablation

    print(f"page: {run_ablation(arguments.cache, arguments.out, [find_start(run) for run in arguments.runs])}")


STUDY = Study("ablation", "choices of the adaptation, compared on development groups; resumable", _add_arguments, _run)
