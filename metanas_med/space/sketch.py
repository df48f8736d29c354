"""Networks without weights: what a space builds, on torch's ``meta`` device, to ask for picks, shapes and costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch

from .base import Body, Picks, SearchSpace
from .registry import get_space
from .settings import SpaceSettings


@dataclass(frozen=True)
class Sketch:
    """A network of the ``meta`` device: its tensors have shapes and no values. Two sketches of one network are equal."""

    settings: SpaceSettings
    picks: tuple[tuple[str, int], ...]  #: canonical, in the order of the rows; of the supernet none
    searched: bool  #: the supernet
    body: Body = field(compare=False)


def complete_picks(space: SearchSpace, picks: Picks) -> dict[str, int]:
    """Return an option of every row: rows that are missing take their first one."""
    return {row: picks.get(row, 0) for row in space.rows()}


def canonical_picks(space: SearchSpace, picks: Picks) -> dict[str, int]:
    """Return the picks that decide something; rows that are missing take their first option.

    A space that knows them says so by a method ``canonical`` (microseconds); any other one is sketched for them.
    """
    own = getattr(space, "canonical", None)
    return dict(own(complete_picks(space, picks)) if own is not None else sketch(space.settings, picks).picks)


def sketch(settings: SpaceSettings, picks: Picks | None) -> Sketch:
    """Return the sketch of a network (None: of the supernet); rows that are missing take their first option."""
    options = None if picks is None else tuple(complete_picks(get_space(settings), picks).values())
    return _sketch(settings, options)  # type: ignore[arg-type]  # frozen settings have a hash


@lru_cache(maxsize=256)
def _sketch(settings: SpaceSettings, options: tuple[int, ...] | None) -> Sketch:
    space = get_space(settings)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        body = space.build(None if options is None else dict(zip(space.rows(), options, strict=True)))
    assert (body.picks is None) == (options is None), f"{settings.name}: build did not hand its picks to Body"
    return Sketch(settings, tuple((body.picks or {}).items()), options is None, body)
