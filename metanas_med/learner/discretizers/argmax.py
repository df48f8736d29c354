"""The most probable option of every row (Liu et al. 2019, arXiv 1806.09055, section 2.4)."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from ...space import genotype
from ...space.network import SegmentationNet
from ..base import Context
from ..episode import Task
from .base import DiscretizerSettings, register_discretizer


class ArgmaxSettings(DiscretizerSettings):
    """When the search ends and the genotype is fixed."""

    name: str = "argmax"
    phase: float = Field(default=0.5, ge=0, le=1)  #: share of the steps that search
    max_steps: int = Field(default=10, ge=0)  #: maximum number of search steps; 0: no limit


@register_discretizer("argmax", settings=ArgmaxSettings, source="Liu et al. 2019, arXiv 1806.09055, section 2.4")
class Argmax:
    """The most probable option of every row after a share of the steps."""

    discretizes = True

    def __init__(self, settings: ArgmaxSettings) -> None:
        self.settings = settings

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search."""
        # the soft network learns to rely on its mixture: a longer search costs the discrete network more Dice at the switch
        return min(math.ceil(self.settings.phase * steps), self.settings.max_steps or steps)

    def genotype(self, net: SegmentationNet, task: Task, context: Context) -> dict[str, Any] | None:
        """Return the most probable architecture."""
        return genotype(net.body)
