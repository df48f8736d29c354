"""The door of meta learners: ``@register_meta("name")`` on a factory that takes MetaSettings."""

from __future__ import annotations

from typing import Any

from ..config import MetaSettings
from ..registry import Registry

_METAS: Registry[Any] = Registry("meta.name")
register_meta = _METAS.register
list_metas = _METAS.names


def build_meta(settings: MetaSettings) -> Any:
    """Return the meta learner that ``settings.name`` names; ConfigError for an unknown name."""
    return _METAS.build(settings.name, settings)
