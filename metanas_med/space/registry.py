"""The registry of search spaces: ``@register_space("name", settings=Class)`` on a factory that takes settings and a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..registry import Registry
from .settings import SpaceSettings

if TYPE_CHECKING:
    from .supernet import Body

SPACES: Registry[Body] = Registry("search space")
register_space = SPACES.register
list_spaces = SPACES.names


def build_space(settings: SpaceSettings, generator: torch.Generator | None = None) -> Body:
    """Return a new body with weights drawn from ``generator``. Raises ConfigError for an unknown name."""
    return SPACES.build(settings.name, settings, generator)
