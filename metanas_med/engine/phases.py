"""Phases of a meta-training: feature steps, warm-up, task-learner runs, commitment. All logic that depends on them is here."""

from __future__ import annotations

import math

from ..learner import FeatureSettings, LearnerSettings
from ..meta import MetaSettings, MetaState, commit_row


class Phases:
    """The phase of a run at ``progress`` in [0, 1], and its effect on the learners.

    Features: at the start and at the end of the run, iterations train features through the closed-form head.
    Warm-up: alphas are frozen and the soft network trains, so that all options are trained before one is chosen.
    Commitment: from then on only the discrete network learns, at its own cost.
    """

    def __init__(self, meta: MetaSettings, features: FeatureSettings, learner: LearnerSettings, committed: bool = False) -> None:
        self.meta, self.features, self.learner, self.committed = meta, features, learner, committed

    def commit(self, state: MetaState, progress: float) -> MetaState:
        """Return ``state``; when the commitment is due, the first choice of every row leads by ``commit_margin``."""
        if self.committed or self.meta.commit >= 1 or progress < self.meta.commit:
            return state
        self.committed = True
        return MetaState(state.weights, {name: commit_row(row, self.meta.commit_margin) for name, row in state.alphas.items()})

    def learns_features(self, progress: float) -> bool:
        """Return whether this iteration takes feature steps instead of task-learner runs."""
        s = self.features
        return progress < s.first or progress + s.last >= 1.0 - 1e-9  # a sum of shares may round to a little less than 1

    def feature_rate(self, progress: float) -> float:
        """Return the factor of the features' learning rate: 1 at first, then a cosine to 0.01 over their last share."""
        s = self.features
        start, end = (1.0 - s.last, 1.0) if s.last else (0.0, s.first)
        part = min(max((progress - start) / max(end - start, 1e-9), 0.0), 1.0)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part))

    def task_learner(self, progress: float) -> LearnerSettings:
        """Return the settings of task-learner runs: frozen alphas in the warm-up (soft) and after the commitment (discrete)."""
        if progress < self.meta.warmup:
            return self.learner.fixed(discrete=False)
        return self.learner.fixed(discrete=True) if self.committed else self.learner

    def searches_features(self, progress: float) -> bool:
        """Return whether feature steps may move alphas."""
        return progress >= self.meta.warmup and not self.learner.keeps_alphas and not self.committed
