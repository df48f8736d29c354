"""``minutes``: Dice against minutes, of ``adapt --minutes`` and of other ways to spend the same time."""

from __future__ import annotations

import argparse

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="minutes", help="a YAML file, or the name of a shipped one (default minutes)")
    parser.add_argument("--report", action="store_true", help="only write minutes.csv, minutes.md and minutes.png")
    parser.add_argument("--dry-run", action="store_true", help="show the cells that are left, and how long they take")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.settings import load_settings
    from ...resources import find_resource
    from .run import outlook, run_minutes
    from .settings import MinutesStudySettings

    settings = load_settings(find_resource("configs", arguments.config), rest, MinutesStudySettings)
    if arguments.dry_run:
        print(outlook(settings))
        return
    if not arguments.report:
        run_minutes(settings)
    from .page import publish

    print(f"page: {publish(settings)}")


STUDY = Study(
    "minutes",
    "Dice against minutes, of adapt --minutes and of other ways to spend the time; resumable",
    _add_arguments,
    _run,
    takes="studies.minutes.settings:MinutesStudySettings",
)
