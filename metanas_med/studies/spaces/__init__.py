"""``spaces``: every search space with five task learners on one organ: the price of a step, and what was derived."""

from __future__ import annotations

import argparse

from ..grid.arguments import add_cell_arguments, run_cells
from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    report = "spaces.csv and spaces.md: from the cells that are done, or without cells the page from a published spaces.csv"
    add_cell_arguments(parser, "spaces", report, "the cells that are left, and how long they take")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.settings import load_settings
    from ...resources import find_resource
    from .page import publish
    from .run import outlook, run_spaces
    from .settings import SpacesSettings

    settings = load_settings(find_resource("configs", arguments.config), rest, SpacesSettings)
    run_cells(arguments, settings, run_spaces, publish, outlook)


STUDY = Study(
    "spaces",
    "every search space with five task learners: the price of a search step, and what was derived; resumable",
    _add_arguments,
    _run,
    takes="studies.spaces.settings:SpacesSettings",
)
