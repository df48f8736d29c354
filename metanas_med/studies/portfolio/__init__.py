"""``portfolio``: configurations that are worth trying on a new organ, from the cells of ``study scores``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="choose", help="a YAML file, or the name of a shipped one (default choose)")
    parser.add_argument("--report", action="store_true", help="measure nothing: use the cells that are done, or scores.csv")
    parser.add_argument("--size", type=int, default=6, help="most configurations of the portfolio, the default included (6)")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="also write portfolio.json into this start's folder")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.settings import load_settings
    from ...resources import find_resource
    from ..choose.run import run_choose
    from ..choose.settings import ChooseSettings
    from .page import publish

    settings = load_settings(find_resource("configs", arguments.config), rest, ChooseSettings)
    if not arguments.report:
        run_choose(settings)
    print(f"page: {publish(settings, arguments.size, arguments.into)}")


STUDY = Study(
    "portfolio",
    "configurations that are worth trying on a new organ, from the cells of study scores",
    _add_arguments,
    _run,
    takes="studies.choose.settings:ChooseSettings",
)
