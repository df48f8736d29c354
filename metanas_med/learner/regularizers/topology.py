"""The penalty of DiNTS: few open decisions, a budget of memory, and blocks that fit together."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ...errors import ConfigError
from ...space.base import Triple
from ...space.choice import Choice
from ...space.dints import DintsBody
from ...space.dints.cost import expected_memory
from ...space.dints.losses import entropy, pattern_probabilities, topology_entropy
from ...space.network import SegmentationNet
from ..episode import Task
from .base import Combination, Penalty, RegularizerSettings, register_regularizer


class TopologySettings(RegularizerSettings):
    """The parts of the penalty."""

    name: str = "topology"
    weight: float = Field(default=1.0, gt=0)  #: of the whole penalty at the end of the search
    budget: float = Field(
        default=0.2, ge=0, le=1
    )  #: memory of the network as a share of that of all edges (sigma; 0.2 and 0.8 in the paper)
    warm_up: float = Field(default=0.5, ge=0, lt=1)  #: share of the search without the penalty
    fit: float = Field(default=0.001, ge=0)  #: weight of the fit of neighbouring blocks


@register_regularizer(
    "topology",
    settings=TopologySettings,
    source="DiNTS, He et al. 2021, arXiv 2103.15954, section 3.4",
    needs="the space dints",
    refuses="every other space: the terms are those of its patterns",
)
class TopologyPenalty:
    """``t (H(patterns) + H(operations) + |sigma - memory / memory of all edges| + 0.001 fit)``; t grows from 0 to 1 after the warm-up.

    The entropies are means over blocks and over edges, in nats. Memory counts the maps that edges keep (``space/dints/cost.py``).
    """

    def __init__(self, settings: TopologySettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> Penalty:
        """Return the penalty for views of ``task``."""
        if not isinstance(net.body, DintsBody):
            raise ConfigError(f"regularizer topology: {_reason(net.body.settings.name)}")
        sizes = net.body.sizes(task.view, task.strides)[0][int(net.body.takes_images) :]

        def penalty(model: SegmentationNet) -> Tensor:
            s, progress = self.settings, model.body.relaxed.progress
            t = max(0.0, (progress - s.warm_up) / (1 - s.warm_up))
            body = model.body
            assert isinstance(body, DintsBody)
            return s.weight * t * penalty_of(body, sizes, s) if t else next(body.parameters()).new_zeros(())

        return penalty

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        rows = combination.rows
        return "" if rows is None or "block0/edge0/op" in rows else _reason("this one")


def penalty_of(body: DintsBody, sizes: list[Triple], settings: TopologySettings) -> Tensor:
    """Return the penalty of the alphas of a supernet at t = 1: a scalar with gradients. ``sizes``: of the grid's levels."""
    quiet = replace(body.relaxed, prune=0.0, generator=None, judging=False)
    choice: Choice = quiet.choose({name: getattr(body.alphas, name) for name in body.rows()})
    blocks = [pattern_probabilities(body.grid, body.gates(choice, block)) for block in range(len(body.blocks))]
    operations = torch.stack([row for name, row in choice.rows.items() if name.endswith("/op")])
    memory, full = expected_memory(body, choice, sizes)
    parts = entropy(torch.stack(blocks)).mean() + entropy(operations).mean() + (settings.budget - memory / full).abs()
    return parts + settings.fit * topology_entropy(body.grid, blocks)


def _reason(space: str) -> str:
    return f"it needs space.name dints, found {space}. Its terms are the patterns of that space; choose cost for another one."
