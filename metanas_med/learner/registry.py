"""The door of task learners: ``@register_learner("name")`` on a factory that takes LearnerSettings."""

from __future__ import annotations

from typing import Any

from ..config import LearnerSettings
from ..registry import Registry

_LEARNERS: Registry[Any] = Registry("learner.name")
register_learner = _LEARNERS.register
list_learners = _LEARNERS.names


def build_learner(settings: LearnerSettings) -> Any:
    """Return the task learner that ``settings.name`` names; ConfigError for an unknown name."""
    return _LEARNERS.build(settings.name, settings)
