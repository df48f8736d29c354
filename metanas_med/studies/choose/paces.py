"""How long a step of each configuration takes in steps of the default, measured once, so that all get the same time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...engine.adapt import adapt_episode
from ...engine.configuration import Configuration
from ...files import write_json
from .settings import ChooseSettings

if TYPE_CHECKING:
    from .work import Setup

#: steps that are timed, after one that warms up; rounds, in which each configuration is timed once
_STEPS, _ROUNDS = 3, 3


def pace_path(settings: ChooseSettings) -> Path:
    """Return the file of the measured paces."""
    return settings.folder / "paces.json"


def measure_paces(settings: ChooseSettings, setups: Sequence[tuple[Configuration, Setup]]) -> None:
    """Write the seconds of a step of each configuration, in the default's, unless they are known: the median of three rounds.

    Processor seconds are measured, so other jobs of the machine count little.
    """
    path = pace_path(settings)
    known = json.loads(path.read_text()) if path.exists() else {}
    if all(each.name in known for each, _ in setups):
        return
    seconds: dict[str, list[float]] = {each.name: [] for each, _ in setups}
    for _ in range(_ROUNDS):
        for each, setup in setups:
            seconds[each.name].append(_step_seconds(setup))
    base = np.array(seconds[Configuration().name])
    write_json(path, {name: round(float(np.median(np.array(own) / base)), 3) for name, own in seconds.items()})
    _paces.cache_clear()


def steps_of(settings: ChooseSettings, configuration: Configuration, steps: int) -> int:
    """Return the steps of ``configuration`` that take as long as ``steps`` of the default."""
    if not settings.equal_time or not steps:
        return steps
    return max(round(steps / _paces(str(pace_path(settings)))[configuration.name]), 1)


@lru_cache(maxsize=4)
def _paces(path: str) -> dict[str, float]:
    return json.loads(Path(path).read_text())


def _step_seconds(setup: Setup) -> float:
    marks: list[float] = []
    learner = setup.learner.model_copy(update={"steps": _STEPS + 1})
    own = replace(setup, learner=learner)
    adapt_episode(
        own.run, own.episode(), learner, own.plan, own.seed, own.runtime, lambda step, loss: marks.append(time.process_time())
    )
    return (marks[-1] - marks[0]) / _STEPS
