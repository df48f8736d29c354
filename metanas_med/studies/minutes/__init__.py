"""``minutes``: Dice against minutes, of ``adapt --minutes`` and of other ways to spend the same time."""

from __future__ import annotations

import argparse

from ..grid.arguments import add_cell_arguments, run_cells
from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    report = "minutes.csv, minutes.md and minutes.png"
    add_cell_arguments(parser, "minutes", report, "the cells that are left, and how long they take")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.settings import load_settings
    from ...resources import find_resource
    from .page import publish
    from .run import outlook, run_minutes
    from .settings import MinutesStudySettings

    settings = load_settings(find_resource("configs", arguments.config), rest, MinutesStudySettings)
    run_cells(arguments, settings, run_minutes, publish, outlook)


STUDY = Study(
    "minutes",
    "Dice against minutes, of adapt --minutes and of other ways to spend the time; resumable",
    _add_arguments,
    _run,
    takes="studies.minutes.settings:MinutesStudySettings",
)
