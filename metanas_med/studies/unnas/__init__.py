"""``unnas``: do label-free tasks rank architectures as labels do? A resumable grid of trainings, and its report."""

from __future__ import annotations

import argparse

from ..grid.arguments import add_grid_arguments, run_grid
from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid_arguments(parser, "unnas", "CSV, page and figure")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .merge import merge
    from .run import unnas

    run_grid(arguments, rest, unnas, merge, "unnas.csv")


STUDY = Study(
    "unnas",
    "do label-free tasks rank architectures as labels do? resumable",
    _add_arguments,
    _run,
    takes="studies.unnas.settings:UnnasSettings",
)
