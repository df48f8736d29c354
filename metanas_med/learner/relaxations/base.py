"""The registry of relaxations: ``@register_relaxation("name", settings=...)`` on a class like ``space.choice.Relaxation``."""

from __future__ import annotations

from pydantic import Field

from ...config import Section
from ...registry import Registry
from ...space.choice import Relaxation

RELAXATIONS: Registry[Relaxation] = Registry("relaxation.name")
register_relaxation = RELAXATIONS.register


class RelaxationSettings(Section):
    """Settings of every relaxation."""

    name: str
    prune: float = Field(default=0.05, ge=0, lt=1)  #: options below this weight are skipped in weight steps of a bilevel search
