"""``default-start``: make the start that the package ships for ``metanas-med adapt default``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder of data sets in MSD layout")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/default_start"), help="folder of cache, run and start (default runs/default_start)"
    )
    parser.add_argument(
        "--config", default="default_start", help="a YAML file, or the name of a shipped one (default default_start)"
    )


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .run import make_start

    made = make_start(arguments.data, arguments.out, arguments.config, rest)
    print(f"learned from {', '.join(made.learned)}")
    if made.ignored:
        print(f"not in the distribution, ignored: {', '.join(made.ignored)}")
    print(f"start: {made.folder}, {made.num_bytes / 2**20:.2f} MiB, SHA-256 {made.sha256}")


STUDY = Study(
    "default-start",
    "make the start that the package ships, from data sets whose licences allow it; resumable",
    _add_arguments,
    _run,
    takes="engine.settings:Settings",
)
