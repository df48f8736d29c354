"""Every score of a configuration on one support: the registered ones, and cross-validation on whole scans."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine.adapt import adapt_episode, score
from ...engine.minutes.folds import split_support
from ...engine.solve import open_task
from ...learner import Context, LearnerSettings
from ...search.scores import SCORES, ScanScore, Score, ScoreSettings, build_score
from ...space.network import SegmentationNet
from ...tasks.episode import Episode
from .settings import ChooseSettings

if TYPE_CHECKING:
    from .work import Setup

log = logging.getLogger(__name__)

#: the score of whole left-out scans; its Dice by scan is kept
FOLDS = "folds"


@dataclass(frozen=True)
class Scored:
    """A score, the seconds that it took, and its values by scan where it has them; an empty value where it failed."""

    value: float | str
    seconds: float
    scans: tuple[float, ...] = ()


def score_all(setup: Setup, episode: Episode, settings: ChooseSettings, fold_steps: int) -> dict[str, Scored]:
    """Return every score by name; ``fold_steps``: of short runs. A registered score that fails has no value; a warning says why."""
    start = setup.learner.fixed(discrete=True).model_copy(update={"steps": 0})
    model, _, _ = adapt_episode(setup.run, episode, start, setup.plan, setup.seed, setup.runtime)
    net: Any = model.net  # one network
    short = setup.learner.model_copy(update={"steps": max(fold_steps, 1)})
    found = {}
    for name in SCORES.names():
        part = build_score(_settings_of(name, short, settings))
        found[name] = _timed(lambda part=part: _registered(setup, episode, net, part), name)
    if fold_steps:
        found[FOLDS] = _timed(lambda: _folds(setup, settings.folds, fold_steps), FOLDS)
    return found


def _timed(make: Callable[[], tuple[float, tuple[float, ...]]], name: str) -> Scored:
    begin = time.perf_counter()
    try:
        value, scans = make()
    except (ArithmeticError, ValueError) as error:  # a loss that is not finite, for example
        log.warning("score %s failed: %s", name, error)
        value, scans = math.nan, ()
    return Scored(round(value, 6) if math.isfinite(value) else "", time.perf_counter() - begin, scans)


def _registered(setup: Setup, episode: Episode, net: SegmentationNet, part: Score) -> tuple[float, tuple[float, ...]]:
    """Return a registered score of ``net``, what the configuration adapts before its first step, and its values by scan."""
    rng = np.random.default_rng([setup.seed, 12])
    task, _ = open_task(episode, setup.plan, rng)  # its own: scores do not depend on their order
    context = Context(rng, setup.runtime)
    if isinstance(part, ScanScore):
        scans = tuple(part.by_scan(net, task, context))
        return float(np.nanmean(scans)), scans
    return float(part(net, task, context)), ()


def _settings_of(name: str, learner: LearnerSettings, settings: ChooseSettings) -> ScoreSettings | str:
    """Return the settings of a score; one that trains takes the learner and the folds of the grid."""
    kind = SCORES.entry(name).settings
    known = {"learner": learner, "folds": settings.folds}
    given = {key: value for key, value in known.items() if key in getattr(kind, "model_fields", {})}
    return kind(**given) if kind is not None and given else name


def _folds(setup: Setup, folds: int, steps: int) -> tuple[float, tuple[float, ...]]:
    """Return the mean Dice of left-out scans, and Dice by scan in the order of the support.

    Folds are those of ``adapt --minutes``. Each fold is segmented by a network that adapted to the other folds, on a plan that they
    alone made.
    """
    splits = split_support(setup.dataset, setup.task, setup.support, folds, 1, setup.seed)
    learner, dice = setup.learner.model_copy(update={"steps": steps}), dict[str, float]()
    for number, fold in enumerate(splits.repeats[0]):
        episode = setup.episode(fold.train)
        model, _, _ = adapt_episode(setup.run, episode, learner, setup.plan, setup.seed + number, setup.runtime)
        for name, by_organ in score(model, setup.dataset, fold.left).items():
            dice[name] = float(np.mean([*by_organ.values()])) if by_organ else math.nan
    scans = tuple(dice[name] for name in setup.support)
    return float(np.nanmean(scans)), scans
