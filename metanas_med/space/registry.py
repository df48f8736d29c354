"""The door of the search spaces: adding one is adding a file with ``@register_space("name")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from ..config import SpaceSettings
from ..errors import ConfigError, suggest

if TYPE_CHECKING:
    from .supernet import Body

Maker = TypeVar("Maker", bound=Callable[..., "Body"])
_SPACES: dict[str, Callable[..., Body]] = {}


def register_space(name: str) -> Callable[[Maker], Maker]:
    """Return a decorator that registers ``maker(settings: SpaceSettings, generator) -> Body`` under a name."""

    def register(maker: Maker) -> Maker:
        if name in _SPACES:
            raise ValueError(f"search space {name!r} is registered twice")
        _SPACES[name] = maker
        return maker

    return register


def list_spaces() -> list[str]:
    """Return the names of all search spaces."""
    return sorted(_SPACES)


def build_space(settings: SpaceSettings, generator: torch.Generator | None = None) -> Body:
    """Return a new body with weights drawn from ``generator``. Raises ConfigError for an unknown name."""
    if settings.name not in _SPACES:
        raise ConfigError(f"unknown search space {settings.name!r}; {suggest(settings.name, _SPACES)}")
    return _SPACES[settings.name](settings, generator)
