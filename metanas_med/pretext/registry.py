"""The registry of pretexts. There are two kinds: those that label a scan, and those that make whole episodes without one.

``@register_pretext("name")`` stands on a factory of a ``Pretext``, which takes PretextSettings, a Frame and a generator.
``@register_pretext("name")`` over ``@episode_maker`` stands on a factory of an ``EpisodeMaker``, which takes the data sets whose label
maps may be read (None in a label-free job), PretextSettings, PlanSettings, the number of levels and that of dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data.cached import CachedDataset
from ..data.settings import PlanSettings
from ..errors import ConfigError
from ..registry import FactoryT, Registry
from .base import EpisodeMaker, Frame, Pretext
from .settings import PretextSettings

PRETEXTS: Registry[Any] = Registry("pretext")
register_pretext = PRETEXTS.register

_MARK = "makes_episodes"


def episode_maker(factory: FactoryT) -> FactoryT:
    """Return the factory with the mark of those that make whole episodes and need no scan."""
    setattr(factory, _MARK, True)
    return factory


def makes_episodes(name: str) -> bool:
    """Return whether a pretext makes whole episodes and needs no scan. Raises ConfigError for an unknown name."""
    return getattr(PRETEXTS.entry(name).factory, _MARK, False)


def scan_pretexts() -> list[str]:
    """Return the names of the pretexts that label scans."""
    return [name for name in PRETEXTS.names() if not makes_episodes(name)]


def build_pretext(name: str, settings: PretextSettings, frame: Frame, generator: np.random.Generator) -> Pretext:
    """Return the pretext task of one episode, with its shared parameters drawn.

    Raises ConfigError for an unknown name, and for a pretext that labels no scan.
    """
    check_pretexts([name], of_scans=True)
    return PRETEXTS.build(name, settings, frame, generator)


def build_maker(
    name: str, datasets: Iterable[CachedDataset] | None, settings: PretextSettings, plan: PlanSettings, levels: int, dims: int
) -> EpisodeMaker:
    """Return the maker of whole episodes ``name``; it may read the label maps of ``datasets`` alone, and none if None."""
    return PRETEXTS.build(name, datasets, settings, plan, levels, dims)


def check_pretexts(names: Sequence[str], of_scans: bool = False) -> None:
    """Raise ConfigError if a name is unknown or if there is none; call it before reading scans.

    ``of_scans`` refuses pretexts that make whole episodes, too.
    """
    if not names:
        raise ConfigError(f"no pretext is named; known: {', '.join(PRETEXTS.names())}")
    for name in names:
        PRETEXTS.check(name)
        if of_scans and makes_episodes(name):
            raise ConfigError(
                f"the pretext {name!r} makes whole episodes and labels no scan; expected one of {', '.join(scan_pretexts())}"
            )
