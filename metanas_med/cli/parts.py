"""Commands that show what there is: list, config, completion."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from .common import Commands, add_config

#: kind -> where its registry is, within the package
KINDS = {
    "spaces": "space:SPACES",
    "candidates": "space:CANDIDATES",
    "candidate-sets": "space.candidate_sets:CANDIDATE_SETS",
    "relaxations": "learner.relaxations:RELAXATIONS",
    "alpha-gradients": "learner.alpha_gradients:ALPHA_GRADIENTS",
    "regularizers": "learner.regularizers:REGULARIZERS",
    "discretizers": "learner.discretizers:DISCRETIZERS",
    "learners": "learner:LEARNERS",
    "learner-presets": "engine.learner_presets:PRESETS",
    "meta-learners": "meta:METAS",
    "pretexts": "pretext:PRETEXTS",
    "strategies": "search:STRATEGIES",
    "scores": "search.scores:SCORES",
    "launchers": "launch:LAUNCHERS",
    "exports": "export:EXPORTS",
    "card-sections": "report.card:CARD_SECTIONS",
}


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    sub = commands.add("list", _list, "show the parts of a kind: name, what it does, source, what it refuses")
    sub.add_argument("kind", metavar="KIND", choices=sorted(KINDS), help=", ".join(KINDS))
    sub = commands.add(
        "config", _config, "print the effective settings with their documentation, as YAML", "engine.settings:Settings"
    )
    add_config(sub, "meta_train")
    sub = commands.add("completion", _completion, "print a script that completes commands and options in a shell")
    sub.add_argument("shell", choices=["bash", "zsh", "tcsh"], metavar="SHELL", help="bash, zsh or tcsh")


def find_registry(kind: str) -> Any:
    """Return the registry of a kind."""
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(f"metanas_med.{module}"), name)


def _list(arguments: argparse.Namespace, rest: list[str]) -> None:
    entries = find_registry(arguments.kind).entries()
    if not entries:
        print(f"no part of the kind {arguments.kind} is registered; docs/extend.md says how to add one")
    for entry in entries:
        print(f"{entry.name}: {entry.about}")
        for key in ("source", "note", "needs", "costs", "refuses"):
            if value := getattr(entry, key):
                print(f"    {key}: {value}")


def _completion(arguments: argparse.Namespace, rest: list[str]) -> None:
    import shtab

    from . import build_parser

    print(shtab.complete(build_parser(), arguments.shell))


def _config(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..config.show import show
    from ..engine.settings import load_settings
    from ..resources import find_resource

    print(show(load_settings(find_resource("configs", arguments.config), rest)))
