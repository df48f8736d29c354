"""DARTS-: an auxiliary skip on every mixed edge that fades during the search, so that a skip option wins on its merits alone."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import nn

from ...errors import ConfigError
from ...space.blocks.edge import Edge
from ...space.blocks.mixture import Mixture
from ...space.choice import Choice
from ...space.network import SegmentationNet
from ...space.sketch import sketch
from ..episode import Task
from .base import Combination, RegularizerSettings, register_regularizer


class DartsMinusSettings(RegularizerSettings):
    """The weight of the auxiliary skip."""

    name: str = "darts_minus"
    start: float = Field(default=1.0, gt=0)  #: weight at the first step; it falls linearly to 0 at the last one


@register_regularizer(
    "darts_minus",
    settings=DartsMinusSettings,
    source="DARTS-, Chu et al. 2021, arXiv 2009.01027",
    needs="mixed edges whose input and output have the same number of channels",
    costs="one sum an edge",
    refuses="spaces without such edges",
)
class DartsMinus:
    """``b * x`` is added to every mixed edge, and ``b`` falls from ``start`` to 0; decoded networks have no auxiliary skip.

    ``x`` is the input of the edge, or every stride-th voxel of it, as the option ``identity`` reads it. Edges that change the number
    of channels get none: a skip would need weights of its own there.
    """

    def __init__(self, settings: DartsMinusSettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> None:
        """Raise ConfigError if no edge of ``net`` can have an auxiliary skip; there is no penalty."""
        if not num_auxiliary(net.body):
            raise ConfigError(f"regularizer darts_minus: {_reason(net.body.settings.name)}")

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        space = combination.space
        return "" if space is None or num_auxiliary(sketch(space, None).body) else _reason(space.name)

    def weigh(self, choice: Choice, progress: float) -> Choice:
        """Return ``choice`` with the auxiliary skip at ``progress``."""
        return replace(choice, skip=self.settings.start * (1.0 - progress))


def _reason(space: str) -> str:
    return (
        f"no mixed edge of the space {space!r} keeps its number of channels. "
        "Use a space of cells such as unet_supernet, or another regularizer."
    )


def num_auxiliary(body: nn.Module) -> int:
    """Return the number of mixed edges of a supernet that can have an auxiliary skip."""
    edges = [module for module in body.modules() if isinstance(module, Edge | Mixture)]
    return sum(len(edge) > 1 and edge.cin == edge.cout for edge in edges)
