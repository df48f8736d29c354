"""PC-DARTS: softmax over 1/K of the channels (Xu et al. 2020, arXiv 1907.05737)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ...space.choice import Choice
from .base import register_relaxation
from .softmax import Softmax, SoftmaxSettings


class PartialSettings(SoftmaxSettings):
    """Softmax and the share of channels."""

    name: str = "partial"
    tau_end: float = Field(default=1.0, gt=0)  #: temperature at the end of the search; the paper's is 1 throughout
    k: int = Field(default=4, ge=1)  #: 1/k of the channels go through a mixture, the rest passes by


@register_relaxation(
    "partial",
    settings=PartialSettings,
    source="Xu et al. 2020, PC-DARTS, arXiv 1907.05737",
    needs="edge normalization, if wanted: space.edge_weights true",
    costs="about 1/k of the memory of a mixture whose candidates are stored one by one",
)
class PartialChannels(Softmax):
    """Softmax whose mixtures read and write the first 1/k of the channels; the rest passes by, and channels are shuffled.

    Edge normalization of the paper is a part of the space (``edge_weights``): softmax weights of a node's inputs. With k = 1 and equal
    edge weights this is DARTS, to the bit. A candidate has all of its weights, and a search steps its leading part (space/blocks/partial.py).
    """

    settings: PartialSettings

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return the softmax weights of every row, for 1/k of the channels."""
        return replace(super().weigh(rows, progress, generator), partial=self.settings.k)
