"""``intensity-slips``: how often known slips of intensities are found in real scans, and how often unchanged scans are reported."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folders in MSD layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of intensity_slips.csv and .md, which are replaced")
    parser.add_argument("--draws", type=int, default=5, help="supports drawn for each unchanged scan (default 5)")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .run import intensity_slips

    print(f"page: {intensity_slips(arguments.datasets, arguments.out, arguments.draws)}")


STUDY = Study("intensity-slips", "how often slips of intensities are found in real scans, and false alarms", _add_arguments, _run)
