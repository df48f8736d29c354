"""Norms without an activation, five activations, and dropout without global randomness: what native forms of papers need."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError
from .norm import EPS, SLOPE, norm_act

#: activations without weights; ``prelu`` has one slope, as torch's default
ACTIVATIONS = {
    "leaky_relu": lambda x: F.leaky_relu(x, SLOPE),
    "relu": F.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "none": lambda x: x,
}
NAMES = ("leaky_relu", "relu", "elu", "gelu", "prelu")


def instance(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return the instance norm of (B, C, X, Y, Z) with scale ``weight`` (C) and shift ``bias`` (C), in float32 at least.

    One voxel never deviates from its own mean: where only one is left, channels are normalised in groups, as ``norm_act`` does.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    channels, groups = x.shape[1], x.shape[1]
    if math.prod(x.shape[2:]) == 1:
        if channels == 1:  # nothing to compare with
            return x * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)
        groups = channels // next(size for size in range(min(8, channels), channels + 1) if channels % size == 0)
    if x.is_meta and not torch.is_grad_enabled():  # only the shape matters there, and torch computes it slowly
        return torch.empty_like(x)
    return F.group_norm(x, groups, weight, bias, EPS)


class NormedAct(nn.Module):
    """A norm with scale and shift, and an activation: (B, C, X, Y, Z) to the same shape.

    ``batch`` keeps running statistics, ``slope`` a learned slope of PReLU; what is not kept cannot be asked for.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, batch: bool = False, slope: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if slope:
            self.slope = nn.Parameter(torch.full((1,), 0.25))
        if batch:
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor, activation: str = "leaky_relu", norm: str = "instance") -> Tensor:
        """Return ``activation(norm(x))``. Raises ConfigError where batch norm is to be trained on one sample."""
        if norm == "batch":
            x = F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, self.training, 0.1, EPS)
        elif activation == "leaky_relu":
            return norm_act(x, self.weight, self.bias)
        else:
            x = instance(x, self.weight, self.bias)
        return self.act(x, activation)

    def act(self, x: Tensor, activation: str) -> Tensor:
        """Return ``activation(x)`` of (B, C, X, Y, Z)."""
        return F.prelu(x, self.slope) if activation == "prelu" else ACTIVATIONS[activation](x)


def check_batch(norms: Sequence[str], training: bool, samples: int) -> None:
    """Raise ConfigError where batch norm would be trained on a batch of one sample, of whose patient it then learns the statistics."""
    if "batch" in norms and training and samples == 1 and torch.is_grad_enabled():
        raise ConfigError(
            "batch norm cannot be trained on batches of one sample: a prediction would depend on the patient that was seen last;"
            " expected norm = instance, or a batch of 2 and more"
        )


def noise_of(x: Tensor) -> torch.Generator:
    """Return a CPU generator whose seed is the bits of the sum of ``x``.

    Dropout then needs no global random state: the same input and weights have the same mask, every other step has another one.
    """
    bits = x.detach().double().sum().cpu().view(torch.int64)
    return torch.Generator().manual_seed(int(bits) % 2**63)


def drop_channels(x: Tensor, share: float, noise: torch.Generator | None) -> Tensor:
    """Return (B, C, X, Y, Z) with each channel of each sample zero with probability ``share``, the others divided by 1 - share.

    ``noise`` None: ``x`` itself, as in evaluation.
    """
    if share <= 0 or noise is None:
        return x
    kept = (torch.rand(x.shape[:2], generator=noise) >= share).to(x) / (1 - share)
    return x * kept[:, :, None, None, None]
