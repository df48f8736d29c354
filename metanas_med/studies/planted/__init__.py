"""``planted``: which task learners find operations that are known, and do they say where options imitate each other?"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of planted.csv and .md; rows of the same code are kept")
    parser.add_argument("--seeds", type=int, default=10, help="planted problems of each case (default 10)")
    parser.add_argument("--learners", nargs="*", metavar="NAME", help="presets of learners (default: all that can be judged)")
    parser.add_argument("--report", action="store_true", help="only write the page from planted.csv")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .run import planted, report

    page = report(arguments.out) if arguments.report else planted(arguments.out, arguments.seeds, learners=arguments.learners)
    print(f"page: {page}")


STUDY = Study("planted", "which learners find operations that are known?", _add_arguments, _run)
