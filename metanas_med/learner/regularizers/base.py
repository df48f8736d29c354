"""The registry of regularizers: penalties that are added to the loss of alphas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ...config import Section
from ...registry import Registry
from ...space.network import SegmentationNet
from ..episode import Task

Penalty = Callable[[SegmentationNet], Tensor]  #: a scalar with gradients of alphas


class Regularizer(Protocol):
    """A penalty on architecture parameters."""

    def on(self, net: SegmentationNet, task: Task) -> Penalty:
        """Return the penalty for a run on ``task`` that starts at ``net``. One-time measurements belong here."""
        ...


REGULARIZERS: Registry[Regularizer] = Registry("regularizers.name")
register_regularizer = REGULARIZERS.register


class RegularizerSettings(Section):
    """Settings of every regularizer."""

    name: str
