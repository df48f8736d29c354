"""``survival``: jobs that are killed at random moments and go on, against the same jobs without a disturbance."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/survival"), help="folder of survival.csv; the study resumes there")
    parser.add_argument("--results", type=Path, help="folder for survival.csv and survival.md (default: --out)")
    parser.add_argument("--kills", type=int, default=200, help="number of kills, over all kinds of jobs (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments (default 0)")
    parser.add_argument("--kinds", default="", help="kinds of jobs, separated by commas (default: all)")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    import os

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before anything heavy is imported: a process with threads must not be forked
    from .run import survive

    print(f"page: {survive(arguments.out, arguments.results, arguments.kills, arguments.seed, arguments.kinds)}")


STUDY = Study("survival", "jobs that are killed at random moments end with the same bits; resumable", _add_arguments, _run)
