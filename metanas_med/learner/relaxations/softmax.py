"""Softmax with a temperature that falls during the search (Elsken et al. 2020, arXiv 1911.11090, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from ...space.choice import Choice, softmax_choice
from .base import RelaxationSettings, register_relaxation


class SoftmaxSettings(RelaxationSettings):
    """Softmax of every row, divided by a temperature."""

    name: str = "softmax"
    tau_start: float = Field(default=1.0, gt=0)  #: temperature at the first step
    tau_end: float = Field(default=0.1, gt=0)  #: temperature at the end of the search


@register_relaxation(
    "softmax", settings=SoftmaxSettings, source="Liu et al. 2019, arXiv 1806.09055; Elsken et al. 2020, section 3.3"
)
class Softmax:
    """The weights of a row are softmax(row / tau); tau falls linearly from ``tau_start`` to ``tau_end``."""

    def __init__(self, settings: SoftmaxSettings) -> None:
        self.settings = settings

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return the softmax weights of every row at ``progress`` in [0, 1]."""
        s = self.settings
        return softmax_choice(rows, s.tau_start + (s.tau_end - s.tau_start) * progress)
