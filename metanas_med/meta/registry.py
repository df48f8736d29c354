"""The door of meta learners: one name, one factory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..config import MetaSettings
from ..errors import ConfigError, suggest

FactoryT = TypeVar("FactoryT", bound=Callable[[MetaSettings], Any])
_METAS: dict[str, Callable[[MetaSettings], Any]] = {}


def register_meta(name: str) -> Callable[[FactoryT], FactoryT]:
    """Return a decorator that lists a meta learner's factory under ``name``."""

    def note(factory: FactoryT) -> FactoryT:
        _METAS[name] = factory
        return factory

    return note


def list_metas() -> list[str]:
    """Return the names of all meta learners."""
    return sorted(_METAS)


def build_meta(settings: MetaSettings) -> Any:
    """Return the meta learner that ``settings.name`` names; ConfigError for an unknown name."""
    if settings.name not in _METAS:
        raise ConfigError(f"unknown meta.name {settings.name!r}; {suggest(settings.name, _METAS)}")
    return _METAS[settings.name](settings)
