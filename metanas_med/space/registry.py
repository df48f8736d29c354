"""The registry of search spaces: ``@register_space("name", settings=Class, source=...)`` on a class that takes its settings."""

from __future__ import annotations

from ..registry import Registry
from .base import SearchSpace
from .settings import SpaceSettings

SPACES: Registry[SearchSpace] = Registry("search space")
register_space = SPACES.register


def get_space(settings: SpaceSettings) -> SearchSpace:
    """Return the search space of ``settings``. Raises ConfigError for an unknown name."""
    return SPACES.build(settings.name, settings)
