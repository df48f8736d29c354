"""Fair-DARTS: an option that is not probable enough is left out, where the row has an option for that."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...space import genotype
from ...space.network import SegmentationNet
from ..base import Context
from ..episode import Task
from .argmax import Argmax, ArgmaxSettings
from .base import register_discretizer
from .perturbation import masked


class ThresholdSettings(ArgmaxSettings):
    """When the search ends, and how probable an option must be."""

    name: str = "threshold"
    threshold: float = Field(default=0.85, gt=0, lt=1)  #: smallest weight of an option that is taken
    left_out: tuple[str, ...] = ("none", "plain")  #: options that leave something out


@register_discretizer(
    "threshold",
    settings=ThresholdSettings,
    source="Fair-DARTS, Chu et al. 2020, arXiv 1911.12126",
    needs="rows with an option that leaves something out, such as none; other rows take their most probable option",
)
class Threshold(Argmax):
    """The most probable option of every row; where it weighs less than the threshold, the option that leaves something out.

    Made for the relaxation sigmoid, whose options do not compete: all options of a row may be improbable. In the paper a node then has
    fewer inputs. Here a row without such an option takes its most probable one.
    """

    settings: ThresholdSettings

    def genotype(self, net: SegmentationNet, task: Task, context: Context) -> dict[str, Any] | None:
        """Return the architecture."""
        s, rows, before = self.settings, net.body.rows(), net.body.relaxed
        out = {name: next((k for k, o in enumerate(row.options) if o in s.left_out), None) for name, row in rows.items()}
        decided = {
            name: option
            for name, row in net.body.probabilities().items()
            if (option := out[name]) is not None and float(row.detach().max()) < s.threshold
        }
        net.body.relax(masked(before, decided))
        try:
            return genotype(net.body)
        finally:
            net.body.relax(before)
