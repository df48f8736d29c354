"""Fair-DARTS: options do not compete, each has a sigmoid of its own (Chu et al. 2020, arXiv 1911.12126, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...space.choice import Choice
from .base import RelaxationSettings, register_relaxation


class SigmoidSettings(RelaxationSettings):
    """Independent sigmoids have no settings."""

    name: str = "sigmoid"


@register_relaxation("sigmoid", settings=SigmoidSettings, source="Chu et al. 2020, Fair-DARTS, arXiv 1911.12126, section 4.1")
class Sigmoid:
    """The weight of an option is sigmoid(alpha), whatever the other options of its row weigh."""

    def __init__(self, settings: SigmoidSettings) -> None:
        self.settings = settings

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return the sigmoid of every alpha."""
        return Choice({name: torch.sigmoid(row) for name, row in rows.items()})
