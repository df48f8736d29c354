"""Checks that the chosen parts work together, made before data are read."""

from __future__ import annotations

from ..errors import ConfigError
from ..learner import LEARNERS, LearnerSettings
from ..meta import METAS, MetaSettings


def check_adapts(learner: LearnerSettings) -> None:
    """Raise ConfigError for an unknown task learner."""
    LEARNERS.check(learner.name)


def check_meta(meta: MetaSettings, learner: LearnerSettings) -> None:
    """Raise ConfigError if the meta learner needs the gradient of a query loss and the task learner does not give it.

    A learner whose steps do not move all parts gives none.
    """
    needs = getattr(METAS.entry(meta.name).factory, "needs_query", False)
    gives = getattr(LEARNERS.entry(learner.name).factory, "gives_query_gradient", False)
    if needs and not gives:
        fitting = [entry.name for entry in LEARNERS.entries() if getattr(entry.factory, "gives_query_gradient", False)]
        raise ConfigError(
            f"meta.name {meta.name} needs the gradient of a query loss, which learner.name {learner.name} does not give. "
            f"Choose learner.name {' or '.join(fitting)}."
        )
    if needs and (parts := getattr(learner, "stepped", "all")) != "all":
        raise ConfigError(f"meta.name {meta.name} needs steps of all parts, found learner.stepped {parts}. Use all.")
