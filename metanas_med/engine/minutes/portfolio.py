"""The portfolio of a start: configurations to try, in order, measured on other organs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.settings import PlanSettings
from ...errors import ConfigError
from ...files import write_json
from ...learner import LearnerSettings
from ..configuration import Configuration
from ..meta_run import MetaRun

log = logging.getLogger(__name__)

FORMAT = 1
FILE = "portfolio.json"


@dataclass(frozen=True)
class Candidate:
    """A configuration of a portfolio."""

    configuration: Configuration
    seconds: float = 1.0  #: of a step / of a step of the default
    gain: float | None = None  #: mean Dice above the default where it was measured


#: what is always tried, first
DEFAULT = Candidate(Configuration())


@dataclass(frozen=True)
class Portfolio:
    """Candidates in order, the default first, and why there are no others (empty: there are)."""

    candidates: tuple[Candidate, ...] = (DEFAULT,)
    why_alone: str = ""


def write_portfolio(folder: Path, space: str, candidates: Sequence[Candidate], about: Mapping[str, Any]) -> Path:
    """Return the path of the portfolio that was written to the folder of a start; ``about``: where it was measured."""
    rows = [{**c.configuration.to_json(), "seconds": c.seconds, "gain": c.gain} for c in candidates]
    write_json(folder / FILE, {"format": FORMAT, "space": space, "candidates": rows, "measured": dict(about)})
    return folder / FILE


def read_portfolio(folder: Path | None, run: MetaRun, learner: LearnerSettings, plan: PlanSettings) -> Portfolio:
    """Return the portfolio in the folder of a start; the default alone, with a warning, where it cannot be used.

    Candidates that the start cannot build are left out with a warning. A start without a portfolio gets no warning.
    """
    path = folder / FILE if folder else None
    if path is None or not path.exists():
        return Portfolio(why_alone="the start has no portfolio of other configurations")
    try:
        tree = json.loads(path.read_text())
        if tree["format"] != FORMAT:
            return _alone(f"{path} has format {tree['format']!r}, expected {FORMAT}")
        if tree["space"] != run.settings.space.name:
            return _alone(f"{path} is of the space {tree['space']!r}, the start of {run.settings.space.name!r}")
        found = [_candidate(row) for row in tree["candidates"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError) as error:
        return _alone(f"{path} cannot be read ({' '.join(str(error).split())[:100] or type(error).__name__})")
    usable = [DEFAULT]
    for candidate in found:
        try:
            candidate.configuration.apply(run, learner, plan)
        except (ConfigError, ValueError) as error:
            log.warning("%s: %s is left out: %s", path.name, candidate.configuration.name, " ".join(str(error).split()))
            continue
        if all(candidate.configuration.name != each.configuration.name for each in usable):
            usable.append(candidate)
    return Portfolio(tuple(usable), "" if len(usable) > 1 else "the portfolio of the start holds nothing else that it can build")


def _candidate(row: Mapping[str, Any]) -> Candidate:
    seconds, gain = float(row.get("seconds", 1.0)), row.get("gain")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds {seconds} of a candidate")
    return Candidate(Configuration.from_json(row), seconds, None if gain is None else float(gain))


def _alone(reason: str) -> Portfolio:
    log.warning("%s: only the default configuration is used", reason)
    return Portfolio(why_alone=reason)
