"""``planted``: does the search find operations that are known, and does it say where options imitate each other?"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of planted.csv and .md; rows of the same code are kept")
    parser.add_argument("--seeds", type=int, default=10, help="planted problems of each case (default 10)")
    parser.add_argument("--report", action="store_true", help="only write the page from planted.csv")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .run import planted, report

    print(f"page: {report(arguments.out) if arguments.report else planted(arguments.out, arguments.seeds)}")


STUDY = Study("planted", "does the search find operations that are known?", _add_arguments, _run)
