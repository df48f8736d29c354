"""``start``: recipes of meta-training compared at equal wall time, by what their starts gain on organs that they never saw."""

from __future__ import annotations

import argparse

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="start", help="a YAML file, or the name of a shipped one (default start)")
    parser.add_argument("--final", action="store_true", help="run the chosen recipes on the final folds, which choose nothing")
    parser.add_argument("--report", action="store_true", help="only write start.md and start.png from start.csv in --out")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.settings import load_settings
    from ...resources import find_resource
    from .settings import StartSettings

    settings = load_settings(find_resource("configs", arguments.config), rest, StartSettings)
    if arguments.report:
        from .page import write_page

        print(f"page: {write_page(settings.folder)}")
        return
    from .run import compare_recipes

    print(f"rows: {compare_recipes(settings, arguments.final)}")


STUDY = Study(
    "start",
    "what recipes of meta-training gain on new organs at equal wall time; resumable",
    _add_arguments,
    _run,
    takes="studies.start.settings:StartSettings",
)
