"""``planted``: does the search find operations that are known, and does it say where options imitate each other?"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of planted.csv and planted.md; finished rows are kept")
    parser.add_argument("--seeds", type=int, default=10, help="planted problems of each case (default 10)")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .run import planted

    print(f"page: {planted(arguments.out, arguments.seeds)}")


STUDY = Study("planted", "does the search find operations that are known?", _add_arguments, _run)
