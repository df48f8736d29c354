"""The registry of pretexts: ``@register_pretext("name")`` on a factory that takes PretextSettings, a Frame and a generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from ..registry import Registry
from .base import Frame, Pretext
from .settings import PretextSettings

PRETEXTS: Registry[Pretext] = Registry("pretext")
register_pretext = PRETEXTS.register


def build_pretext(name: str, settings: PretextSettings, frame: Frame, generator: np.random.Generator) -> Pretext:
    """Return the pretext task of one episode, with its shared parameters drawn. Raises ConfigError for an unknown name."""
    return PRETEXTS.build(name, settings, frame, generator)


def check_pretexts(names: Sequence[str]) -> None:
    """Raise ConfigError if a name is unknown or if there is none; call it before reading scans."""
    if not names:
        raise ConfigError(f"no pretext is named; known: {', '.join(PRETEXTS.names())}")
    for name in names:
        PRETEXTS.check(name)
