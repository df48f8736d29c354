"""``compare-runs``: what meta-trainings gain on the benchmark's development groups."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of compare_runs.csv and compare_runs.md; the study resumes there"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmark/cache"), help="cache (default runs/benchmark/cache)")
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="NAME=RUN[,RUN...]",
        help="a kind of meta-training and its run folders, which hold out prostate and sarcoma; none: only write the page",
    )


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.starts import find_start
    from ...errors import ConfigError
    from .run import compare_runs

    named: dict[str, list[Path]] = {}
    for entry in arguments.runs:
        name, equals, runs = entry.partition("=")
        if not (name and equals and runs):
            raise ConfigError(f"expected NAME=RUN[,RUN...], found {entry!r}")
        named[name] = [find_start(run) for run in runs.split(",")]
    print(f"page: {compare_runs(arguments.cache, arguments.out, named)}")


STUDY = Study("compare-runs", "what meta-trainings gain on development groups; resumable", _add_arguments, _run)
