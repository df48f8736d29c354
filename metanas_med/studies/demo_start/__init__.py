"""``demo-start``: make the meta-learned start of the demo, and joint pretraining, its baseline."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo_start"), help="folder of data, runs and starts")
    parser.add_argument("--config", default="demo", help="a YAML file, or the name of a shipped one (default demo)")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .run import make_start

    print(f"starts: {make_start(arguments.out, arguments.config, rest)}")


STUDY = Study(
    "demo-start",
    "make the starts that the demo ships: meta-training and joint pretraining on phantoms; resumable",
    _add_arguments,
    _run,
    takes="engine.settings:Settings",
)
