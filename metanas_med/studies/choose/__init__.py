"""``scores``: what cheap scores are worth when one of several configurations must be chosen from five scans."""

from __future__ import annotations

import argparse

from ..grid.arguments import add_cell_arguments, run_cells
from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    report = "scores.csv and scores.md from the cells that are done"
    add_cell_arguments(parser, "choose", report, "how many cells there are, and how many are done")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.settings import load_settings
    from ...resources import find_resource
    from .page import publish
    from .run import outlook, run_choices
    from .settings import ChooseSettings

    settings = load_settings(find_resource("configs", arguments.config), rest, ChooseSettings)
    run_cells(arguments, settings, run_choices, publish, outlook)


STUDY = Study(
    "scores",
    "what cheap scores are worth in the choice of a configuration from five scans; resumable",
    _add_arguments,
    _run,
    takes="studies.choose.settings:ChooseSettings",
)
