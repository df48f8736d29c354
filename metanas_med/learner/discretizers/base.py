"""The registry of discretizers: when a search ends, and which architecture it found."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from ...config import Section
from ...registry import Registry
from ...space.network import SegmentationNet
from ..base import Context
from ..episode import Task


class Discretizer(Protocol):
    """How a soft network becomes a discrete one."""

    discretizes: ClassVar[bool]  #: False: the network stays soft

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search; the discrete network trains for the rest."""
        ...

    def genotype(self, net: SegmentationNet, task: Task, context: Context) -> dict[str, Any] | None:
        """Return the architecture that ``net`` encodes; None: the network stays soft."""
        ...


DISCRETIZERS: Registry[Discretizer] = Registry("discretizer.name")
register_discretizer = DISCRETIZERS.register


class DiscretizerSettings(Section):
    """Settings of every discretizer."""

    name: str
