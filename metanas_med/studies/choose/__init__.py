"""``scores``: what cheap scores are worth when one of several configurations must be chosen from five scans."""

from __future__ import annotations

import argparse

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="choose", help="a YAML file, or the name of a shipped one (default choose)")
    parser.add_argument("--report", action="store_true", help="only write scores.csv and scores.md from the cells that are done")
    parser.add_argument("--dry-run", action="store_true", help="show how many cells there are, and how many are done")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.settings import load_settings
    from ...resources import find_resource
    from .run import outlook, run_choices
    from .settings import ChooseSettings

    settings = load_settings(find_resource("configs", arguments.config), rest, ChooseSettings)
    if arguments.dry_run:
        print(outlook(settings))
        return
    if not arguments.report:
        run_choices(settings)
    from .page import publish

    print(f"page: {publish(settings)}")


STUDY = Study(
    "scores",
    "what cheap scores are worth in the choice of a configuration from five scans; resumable",
    _add_arguments,
    _run,
    takes="studies.choose.settings:ChooseSettings",
)
