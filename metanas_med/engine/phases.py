"""Phases of a meta-training: a recipe orders them. All logic that depends on them is here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from ..config import Section
from ..learner import LearnerSettings
from ..meta import MetaSettings, MetaState, commit_row

#: what an iteration may do: ``features``: steps on an organ's episode through the head; ``synthesis``: steps on made-up volumes
#: by dense contrastive learning; ``tasks``: runs of the task learner and an outer step
Kind = Literal["features", "synthesis", "tasks"]

#: a sum of shares may round to a little less than 1, and a product with the iterations to a little less than a whole number
_ROUNDING = 1e-9


class Phase(Section):
    """A part of a meta-training: ``share`` of its iterations (or of its time), each of a kind that ``mix`` weighs."""

    share: float = Field(gt=0, le=1)  #: share of the whole run
    mix: dict[Kind, Annotated[float, Field(gt=0)]] = Field(min_length=1)  #: kinds of iterations with their weights


def _check_sum(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    total = sum(phase.share for phase in phases)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the shares of the {len(phases)} phase(s) add up to {total:.4g}, expected 1")
    return phases


#: a recipe: phases in their order, whose shares add up to 1
Recipe = Annotated[tuple[Phase, ...], AfterValidator(_check_sum)]


def features_around(first: float, last: float) -> tuple[Phase, ...]:
    """Return the recipe that trains features in the ``first`` and ``last`` share of a run, and runs the task learner between."""
    first = min(first, 1.0 - last)
    shares: tuple[tuple[Kind, float], ...] = (("features", first), ("tasks", 1.0 - first - last), ("features", last))
    return tuple(Phase(share=round(share, 12), mix={kind: 1.0}) for kind, share in shares if share > _ROUNDING)


class Phases:
    """The phase of a run at ``progress`` in [0, 1], and its effect on the learners.

    Features and synthesis share one optimizer, whose rate falls in the last phase that has such iterations.
    Warm-up: alphas are frozen and the soft network trains, so that all options are trained before one is chosen.
    Commitment: from then on only the discrete network learns, at its own cost.
    """

    def __init__(self, recipe: Sequence[Phase], meta: MetaSettings, learner: LearnerSettings, committed: bool = False) -> None:
        self.recipe, self.meta, self.learner, self.committed = tuple(recipe), meta, learner, committed
        self._ends = [*accumulate(phase.share for phase in recipe[:-1]), 1.0]

    def commit(self, state: MetaState, progress: float) -> MetaState:
        """Return ``state``; when the commitment is due, the first choice of every row leads by ``commit_margin``."""
        if self.committed or self.meta.commit >= 1 or progress < self.meta.commit:
            return state
        self.committed = True
        return MetaState(state.weights, {name: commit_row(row, self.meta.commit_margin) for name, row in state.alphas.items()})

    def kind(self, progress: float, generator: np.random.Generator) -> Kind:
        """Return what an iteration at ``progress`` does; the generator decides where a phase mixes kinds."""
        index = next((i for i, end in enumerate(self._ends) if progress < end - _ROUNDING), len(self._ends) - 1)
        kinds, weights = zip(*self.recipe[index].mix.items(), strict=True)
        return kinds[0] if len(kinds) == 1 else kinds[int(generator.choice(len(kinds), p=np.divide(weights, sum(weights))))]

    def feature_rate(self, progress: float) -> float:
        """Return the factor of the rates of feature steps: 1 at first, then a cosine to 0.01 over their last phase."""
        last = max((i for i, phase in enumerate(self.recipe) if set(phase.mix) != {"tasks"}), default=0)
        end = self._ends[last]
        start = end - self.recipe[last].share
        part = min(max((progress - start) / max(end - start, _ROUNDING), 0.0), 1.0)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part))

    def task_learner(self, progress: float) -> LearnerSettings:
        """Return the settings of task-learner runs: frozen alphas in the warm-up (soft) and after the commitment (discrete)."""
        if progress < self.meta.warmup:
            return self.learner.fixed(discrete=False)
        return self.learner.fixed(discrete=True) if self.committed else self.learner

    def searches_features(self, progress: float) -> bool:
        """Return whether feature steps may move alphas."""
        return progress >= self.meta.warmup and not self.learner.keeps_alphas and not self.committed


def kinds_of(recipe: Sequence[Phase]) -> set[Kind]:
    """Return the kinds of iterations that a recipe has."""
    return {kind for phase in recipe for kind in phase.mix}


def share_of(recipe: Sequence[Phase], kind: Kind) -> float:
    """Return the expected share of a run that iterations of a kind take."""
    return sum(phase.share * phase.mix.get(kind, 0.0) / sum(phase.mix.values()) for phase in recipe)
