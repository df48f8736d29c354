"""The door of search spaces: ``@register_space("name")`` on a factory that takes SpaceSettings and a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..config import SpaceSettings
from ..registry import Registry

if TYPE_CHECKING:
    from .supernet import Body

_SPACES: Registry[Body] = Registry("search space")
register_space = _SPACES.register
list_spaces = _SPACES.names


def build_space(settings: SpaceSettings, generator: torch.Generator | None = None) -> Body:
    """Return a new body with weights drawn from ``generator``. Raises ConfigError for an unknown name."""
    return _SPACES.build(settings.name, settings, generator)
