"""``benchmark``: a resumable grid of few-shot adaptations to held-out organs by competing methods, and its report."""

from __future__ import annotations

import argparse

from ..grid.arguments import add_grid_arguments, run_grid
from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid_arguments(parser, "benchmark", "CSV, tables and figures")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .merge import merge
    from .run import benchmark

    run_grid(arguments, rest, benchmark, merge, "results.csv")


STUDY = Study(
    "benchmark",
    "few-shot adaptation to held-out organs by competing methods; resumable",
    _add_arguments,
    _run,
    takes="studies.benchmark.settings:BenchmarkSettings",
)
