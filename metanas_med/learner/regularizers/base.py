"""The registry of regularizers: penalties on alphas, and other changes of a search that make its result more robust.

A regularizer has ``on``. Five more members are optional; ``learner/hooks.py`` calls those that a part has:

- ``weigh(choice, progress)`` returns the choice that all steps of the search see (darts_minus).
- ``perturb(choice, loss, progress, generator)`` returns the rows that weight steps see instead of ``choice.rows`` (sdarts).
- ``watch(net)`` returns a ``Watcher`` that may end the search (r_darts, darts_plus).
- ``without_effect(combination)`` says why the part changes nothing, for a warning.
- ``reason_against(combination)`` says what the part cannot be combined with, before any data are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...config import Section
from ...registry import Registry
from ...space import SpaceSettings
from ...space.base import Row
from ...space.network import SegmentationNet
from ..episode import Task

#: a scalar with gradients of alphas; ``net.body.relaxed.progress`` is how far the search is, from 0 to 1
Penalty = Callable[[SegmentationNet], Tensor]


@dataclass(frozen=True)
class Combination:
    """What a regularizer is combined with."""

    learner: Any  #: the settings of the task learner
    relaxation: Any  #: the relaxation itself
    bilevel: bool  #: alphas step apart from the weights
    rows: Mapping[str, Row] | None = None  #: of the search space; None if it is not known yet
    space: SpaceSettings | None = None  #: the settings of the search space; None if they are not known yet

    @property
    def samples(self) -> bool:
        """Whether steps of the search run only some of the options of a row, drawn at random."""
        found = self.relaxation.weigh({"row": torch.zeros(3)}, 0.0, torch.Generator().manual_seed(0))
        return bool(found.active)


@dataclass(frozen=True)
class Moment:
    """The state of a search after an alpha step."""

    number: int  #: of alpha steps so far
    net: SegmentationNet
    loss: Callable[[], Tensor]  #: of the batch that judges alphas, in float32; all options are run, and no step is perturbed


#: called after each alpha step; returns the rows to keep, by name, if the search is to end, otherwise None
Watcher = Callable[[Moment], Mapping[str, Tensor] | None]


class Regularizer(Protocol):
    """A penalty on architecture parameters."""

    def on(self, net: SegmentationNet, task: Task) -> Penalty | None:
        """Return the penalty for a run on ``task`` that starts at ``net``; None for none. One-time measurements belong here."""
        ...


REGULARIZERS: Registry[Regularizer] = Registry("regularizers.name")
register_regularizer = REGULARIZERS.register


class RegularizerSettings(Section):
    """Settings of every regularizer."""

    name: str


def decision_rows(net: SegmentationNet) -> list[Tensor]:
    """Return the rows of alphas that decide something: two and more options, and no weights of edges."""
    return [
        getattr(net.body.alphas, name) for name, row in net.body.rows().items() if row.type != "edges" and len(row.options) > 1
    ]
