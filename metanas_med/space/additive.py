"""The expected cost of a supernet whose rows add up: each row chooses the operation of one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .base import Body
from .cost import supernet_multiply_adds


def additive_multiply_adds(
    body: Body, shape: Sequence[int], strides: Sequence[Sequence[int]], costs: Mapping[str, Sequence[float]]
) -> Tensor:
    """Return the mean multiply-adds of one sample over architectures drawn from the alphas: a scalar with gradients; exact.

    ``costs``: the multiply-adds of each option of each row. The supernet runs all of them; what is left of its cost is fixed.
    """
    weights = body.probabilities()
    example = next(body.parameters())
    total = torch.tensor(float(supernet_multiply_adds(body.settings, shape, strides)), device=example.device)
    for name, row in weights.items():
        own = torch.tensor(costs[name], dtype=row.dtype, device=row.device)
        total = total - float(sum(costs[name])) + row @ own
    return total
