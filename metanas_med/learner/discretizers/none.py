"""No discretization: the network stays soft to the end."""

from __future__ import annotations

from typing import Any

from ...space.network import SegmentationNet
from ..base import Context
from ..episode import Task
from .base import DiscretizerSettings, register_discretizer


class NoneSettings(DiscretizerSettings):
    """No discretization has no settings."""

    name: str = "none"


@register_discretizer("none", settings=NoneSettings, source="METANAS' meta-training, Elsken et al. 2020, arXiv 1911.11090")
class NoDiscretization:
    """The network stays soft: all steps search."""

    discretizes = False

    def __init__(self, settings: NoneSettings) -> None:
        self.settings = settings

    def search_steps(self, steps: int) -> int:
        """Return all steps."""
        return steps

    def genotype(self, net: SegmentationNet, task: Task, context: Context) -> dict[str, Any] | None:
        """Return None."""
        return None
