"""The registry of alpha gradients: which scans judge architecture parameters, and which gradient moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from ...config import Section
from ...registry import Registry


class Loss(Protocol):
    """A loss of the network on one batch."""

    def __call__(self, weights: Sequence[Tensor] | None = None, /) -> Tensor:
        """Return the loss at the network's present parameters, or with these ``weights``, in the order of those that ``take`` gets.

        The result is differentiable in ``weights`` and alphas, any number of times.
        """
        ...


@dataclass(frozen=True)
class Halves:
    """Which scans train the weights of each copy of the network, and which judge its alphas."""

    train: tuple[tuple[int, ...], ...]
    other: tuple[tuple[int, ...], ...]
    cross: bool  #: two copies, each judged on what the other one trains on
    kind: str  #: for the report


class AlphaGradient(Protocol):
    """How alphas get their gradient."""

    bilevel: ClassVar[bool]  #: alphas step on separate batches; otherwise with the weights, from the same backward pass
    evaluations: ClassVar[int]  #: number of gradient evaluations in ``take``
    exact: ClassVar[bool]  #: needs float32: rounding of bfloat16 would dominate

    def split(self, num_scans: int, generator: np.random.Generator) -> Halves:
        """Return which support scans train and which judge."""
        ...

    def take(
        self, train: Loss, judge: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], rate: float
    ) -> tuple[list[Tensor], float]:
        """Return the gradient of ``alphas`` and the value of ``judge``; not called if ``bilevel`` is False."""
        ...


ALPHA_GRADIENTS: Registry[AlphaGradient] = Registry("alpha_gradient.name")
register_alpha_gradient = ALPHA_GRADIENTS.register


class AlphaGradientSettings(Section):
    """Settings of every alpha gradient."""

    uses_rate: ClassVar[bool] = False  #: ``take`` reads the rate of weight steps

    name: str
