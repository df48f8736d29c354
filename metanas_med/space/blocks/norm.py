"""Instance norm and leaky ReLU in one step that stores its input only."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.01  #: of the leaky ReLU
EPS = 1e-5


def _wide(row: Tensor) -> Tensor:
    return row[..., None, None, None]


class NormAct(torch.autograd.Function):
    """``leaky_relu(instance_norm(x) * weight + bias)``; the backward pass computes the sign of its argument from x.

    Ordinary autograd would keep both the input and the activation. On channels-last maps this backward pass is also twice as fast as
    torch's two.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels = x.shape[:2]
        if x.is_meta:  # what is saved matters there, too
            return torch.empty_like(x), x.new_empty(batch, channels), x.new_empty(batch, channels)
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last_3d):
            # on these maps torch takes the variance as E[x^2] - E[x]^2 of float32 sums, which loses all digits where a map is nearly flat
            mean = x.mean((2, 3, 4))
            out = x - _wide(mean)
            rstd = torch.rsqrt((out * out).mean((2, 3, 4)) + EPS)
            torch.addcmul(_wide(bias.expand_as(rstd)), out, _wide(rstd * weight), out=out)
        else:
            # torch's kernel for CUDA devices takes contiguous maps only
            out, mean, rstd = torch.native_group_norm(
                x.contiguous(), weight, bias, batch, channels, math.prod(x.shape[2:]), channels, EPS
            )
        return F.leaky_relu_(out, SLOPE), mean, rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the statistics must depend on x
            variance, mean = torch.var_mean(x, (2, 3, 4), correction=0)
            rstd = torch.rsqrt(variance + EPS)
        # gradients may have another memory format than the map; torch is slow where formats mix (values are the same)
        above = grad_outputs[0]
        if x.is_contiguous(memory_format=torch.channels_last_3d):
            above = above.contiguous(memory_format=torch.channels_last_3d)
        scale = rstd * weight
        inside = torch.addcmul(_wide(bias - mean * scale), x, _wide(scale))
        grad = torch.ops.aten.leaky_relu_backward(above, inside, SLOPE, False)
        total = grad.sum((2, 3, 4))
        along = rstd * ((grad * x).sum((2, 3, 4)) - mean * total)  # sum of grad * normalised x
        slope = -scale * rstd * along / math.prod(x.shape[2:])
        shift = -scale * total / math.prod(x.shape[2:]) - slope * mean
        return torch.addcmul(torch.addcmul(_wide(shift), x, _wide(slope)), grad, _wide(scale)), along.sum(0), total.sum(0)


def norm_act(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return instance norm of (B, C, X, Y, Z) with scale ``weight`` (C; 1) and shift ``bias`` (C; 0), then the leaky ReLU, in float32 at least.

    On a CPU the result has the memory format of ``x``. One voxel never deviates from its own mean: where only one is left, channels are
    normalised in groups instead.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # as autocast does: statistics need the digits
    if x.is_meta and not torch.is_grad_enabled():  # only the shape matters there, and torch computes it slowly
        return torch.empty_like(x)
    channels = x.shape[1]
    weight = x.new_ones(channels) if weight is None else weight
    bias = x.new_zeros(channels) if bias is None else bias
    if math.prod(x.shape[2:]) > 1:
        return NormAct.apply(x, weight, bias)[0]  # type: ignore[index]
    if channels == 1:  # nothing to compare with
        return F.leaky_relu(x * _wide(weight) + _wide(bias), SLOPE)
    size = next(size for size in range(min(8, channels), channels + 1) if channels % size == 0)
    return F.leaky_relu(F.group_norm(x, channels // size, weight, bias, EPS), SLOPE)


class Norm(nn.Module):
    """Instance norm with scale and shift, then a leaky ReLU: (B, C, X, Y, Z) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return each sample normalised by itself, so that a prediction never depends on its batch."""
        return norm_act(x, self.weight, self.bias)
