"""The door of task learners: one name, one factory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..config import LearnerSettings
from ..errors import ConfigError, suggest

FactoryT = TypeVar("FactoryT", bound=Callable[[LearnerSettings], Any])
_LEARNERS: dict[str, Callable[[LearnerSettings], Any]] = {}


def register_learner(name: str) -> Callable[[FactoryT], FactoryT]:
    """Return a decorator that lists a learner's factory under ``name``."""

    def note(factory: FactoryT) -> FactoryT:
        _LEARNERS[name] = factory
        return factory

    return note


def list_learners() -> list[str]:
    """Return the names of all task learners."""
    return sorted(_LEARNERS)


def build_learner(settings: LearnerSettings) -> Any:
    """Return the task learner that ``settings.name`` names; ConfigError for an unknown name."""
    if settings.name not in _LEARNERS:
        raise ConfigError(f"unknown learner.name {settings.name!r}; {suggest(settings.name, _LEARNERS)}")
    return _LEARNERS[settings.name](settings)
