"""The command-line arguments that every grid has."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_grid_arguments(parser: argparse.ArgumentParser, config: str, results: str) -> None:
    """Add the options of a grid whose shipped configuration is ``config`` and that writes ``results`` (in words)."""
    parser.add_argument("--config", default=config, help=f"a YAML file, or the name of a shipped one (default {config})")
    parser.add_argument("--report", action="store_true", help=f"only write {results} from the cells that are done")
    parser.add_argument("--dry-run", action="store_true", help="show the cells and the predicted hours")
    parser.add_argument(
        "--merge", type=Path, metavar="FOLDER", help="only take over the cells that another run published in FOLDER"
    )
