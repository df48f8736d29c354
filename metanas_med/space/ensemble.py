"""Several segmentation networks as one: the mean of their class probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Body
from .network import SegmentationNet


class Ensemble(nn.Module):
    """Networks of one architecture and task whose class probabilities are averaged.

    Used in place of a ``SegmentationNet`` in prediction: ``forward`` takes the same inputs, and the softmax of what it returns is
    the mean of the members' probabilities. Cost: that of all members, one after another. ValueError without a member.
    """

    def __init__(self, members: Sequence[SegmentationNet]) -> None:
        super().__init__()
        if not members:
            raise ValueError("expected at least one network")
        self.members = nn.ModuleList(members)

    @property
    def first(self) -> SegmentationNet:
        """The first member."""
        net = self.members[0]
        assert isinstance(net, SegmentationNet)
        return net

    @property
    def body(self) -> Body:
        """The body of the first member; all have the same architecture."""
        return self.first.body

    @property
    def num_organs(self) -> int:
        return self.first.num_organs

    def forward(self, images: Tensor, coords: Tensor, strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the logarithm of the mean class probabilities, (B, K + 1, X, Y, Z) float32.

        ``images`` are (B, C, X, Y, Z), ``coords`` (B, 3, X, Y, Z).
        """
        total: Tensor | None = None
        for net in self.members:
            found = net(images, coords, strides).float().softmax(1)
            total = found if total is None else total.add_(found)
        assert total is not None
        return (total / len(self.members)).clamp_min(torch.finfo(torch.float32).tiny).log()
