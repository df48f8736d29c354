"""``adapt --minutes``: its options, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .common import above_zero

if TYPE_CHECKING:
    from ..data.cached import CachedDataset
    from ..engine.adapt import AdaptSettings
    from ..engine.meta_run import MetaRun


def add_minutes(sub: argparse.ArgumentParser) -> None:
    """Add the options of a time budget to ``adapt``."""
    sub.add_argument(
        "--minutes",
        type=above_zero,
        help="the time to spend, instead of --steps: chooses a configuration where the time allows it, and says what Dice to expect",
    )
    sub.add_argument("--resume", action="store_true", help="continue what --minutes has left in --out when it was stopped")


def split_flags(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings ``--minutes.key value`` among ``rest``, and all others."""
    own: list[str] = []
    others: list[str] = []
    target = others
    for text in rest:
        if text.startswith("--"):
            target = own if text.startswith("--minutes.") else others
        target.append(text)
    return own, others


def check_minutes(arguments: argparse.Namespace, own: Sequence[str]) -> None:
    """Raise UserError for options that exclude each other, or that have no effect without ``--minutes``."""
    if arguments.minutes is None:
        if own or arguments.resume:
            raise UserError(f"{own[0] if own else '--resume'} has no effect without --minutes M. Give the time to spend.")
        return
    for name, given in (("--steps", arguments.steps), ("--unlabelled", arguments.unlabelled)):
        if given is not None:
            raise UserError(f"--minutes and {name} exclude each other. Give one of the two.")


def run_minutes(
    arguments: argparse.Namespace, run: MetaRun, data: CachedDataset, settings: AdaptSettings, own: Sequence[str]
) -> dict[str, Any]:
    """Return the note of an adaptation with a time budget."""
    from ..config import Section, override
    from ..engine.minutes.run import adapt_minutes
    from ..engine.minutes.settings import MinutesSettings

    class Given(Section):
        """The section that ``--minutes.key`` sets."""

        minutes: MinutesSettings = MinutesSettings()

    search = override(Given(), own).minutes
    return adapt_minutes(run, data, arguments.out, arguments.minutes, settings, search)


def tell_minutes(note: dict[str, Any], out: Path) -> None:
    """Print what was tried, what was chosen and why, and what Dice to expect."""
