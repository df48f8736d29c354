"""``feature-diversity``: how similar a run's features are on the organs that it held out."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of feature_diversity.csv and feature_diversity.md, which are replaced"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmark/cache"), help="cache (default runs/benchmark/cache)")
    parser.add_argument(
        "runs", nargs="*", metavar="NAME=RUN", help="a name and a meta-training folder; none: only write the page"
    )


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ...engine.starts import find_start
    from ...errors import ConfigError
    from .run import feature_diversity

    named: dict[str, Path] = {}
    for entry in arguments.runs:
        name, equals, folder = entry.partition("=")
        if not (name and equals and folder):
            raise ConfigError(f"expected NAME=RUN, found {entry!r}")
        named[name] = find_start(folder)
    print(f"page: {feature_diversity(arguments.cache, arguments.out, named)}")


STUDY = Study("feature-diversity", "how similar features of held-out organs are, by their effective rank", _add_arguments, _run)
