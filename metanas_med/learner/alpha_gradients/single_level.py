"""Single level: alphas and weights step from one backward pass (Hou et al. 2021, arXiv 2108.08128, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .base import AlphaGradientSettings, Halves, Loss, register_alpha_gradient


class SingleLevelSettings(AlphaGradientSettings):
    """Single level has no settings of its own."""

    name: str = "single_level"


@register_alpha_gradient("single_level", settings=SingleLevelSettings, source="Hou et al. 2021, arXiv 2108.08128, section 3")
class SingleLevel:
    """Alphas step with the weights, from the same backward pass; every scan trains both, and a step costs one gradient."""

    bilevel = False
    evaluations = 0
    exact = False

    def __init__(self, settings: SingleLevelSettings) -> None:
        self.settings = settings

    def split(self, num_scans: int, generator: np.random.Generator) -> Halves:
        """Return all scans on both sides."""
        everything = tuple(range(num_scans))
        return Halves((everything,), (everything,), False, "none: alphas step with the weights")

    def take(
        self, train: Loss, judge: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], rate: float
    ) -> tuple[list[Tensor], float]:
        raise AssertionError("single-level alphas take their gradient from the weights' step")
