"""Commands that measure the toolkit itself: ``study NAME`` for each study, and the demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..studies.registry import find_studies
from .common import Commands, add_config, owning


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    _add_study(commands)
    _add_demo(commands)


def _add_study(commands: Commands) -> None:
    study = commands.add("study", _list_studies, "run a study of the toolkit; without a name: list the studies")
    study.set_defaults(settings=[])
    names = Commands(study, "STUDY", required=False)
    for name, each in sorted(find_studies().items()):
        each.add_arguments(names.add(name, each.run, each.help, each.takes, _go_on))


def _go_on(arguments: argparse.Namespace, typed: str) -> str:
    return f"finished cells and rows are kept. To go on: {typed}"


def _list_studies(arguments: argparse.Namespace, rest: list[str]) -> None:
    studies = sorted(find_studies().items())
    width = max(len(name) for name, _ in studies)
    for name, study in studies:
        print(f"{name:{width}}  {study.help}")
    print("\nmetanas-med study NAME --help shows the options of a study.")


def _add_demo(commands: Commands) -> None:
    about = "what a meta-learned start is worth on organs that it never saw, in minutes"
    again = "To start again: {}".format
    sub = commands.add("demo", owning(_demo), about, "engine.settings:Settings", lambda arguments, typed: again(typed))
    add_config(sub, "demo")
    sub.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of data, runs and results (default runs/demo)")


def _demo(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..studies.demo import demo

    demo(arguments.config, rest, arguments.out)
