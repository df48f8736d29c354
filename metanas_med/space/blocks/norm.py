"""Instance norm and leaky ReLU in one step that stores its input only."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.01  #: of the leaky ReLU
EPS = 1e-5


#: samples of at least as many values are normalised one after the other, so that what lies between is read from the cache
_MANY = 2**14


def _wide(row: Tensor) -> Tensor:
    return row[..., None, None, None]


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last_3d)


def _stays(x: Tensor) -> bool:
    """Return whether a bf16 map is normalised in bf16: channels-last ones of a CPU, and those of the ``meta`` device in their place."""
    return x.dtype == torch.bfloat16 and (_on_cpu(x) or (x.is_meta and x.is_contiguous(memory_format=torch.channels_last_3d)))


def _parts(x: Tensor) -> list[slice]:
    """Return the samples of a channels-last map one by one where they are large, else all of them at once."""
    return [slice(i, i + 1) for i in range(len(x))] if _on_cpu(x) and x[0].numel() >= _MANY else [slice(None)]


class NormAct(torch.autograd.Function):
    """``leaky_relu(instance_norm(x) * weight + bias)`` in the type of x; statistics, ``weight`` and ``bias`` are float32 at least.

    Ordinary autograd would keep both the input and the activation. Here a float32 input is kept alone, and the backward pass
    computes the sign of the activation's argument from it. Of a bf16 map the result is kept, too: the convolution that reads it keeps
    it in any case. On channels-last maps both passes take less than half of the time of torch's.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels = x.shape[:2]
        if x.is_meta:  # what is saved matters there, too
            return torch.empty_like(x), x.new_empty(batch, channels), x.new_empty(batch, channels)
        if not _on_cpu(x):
            # torch's kernel for CUDA devices takes contiguous maps only
            out, mean, rstd = torch.native_group_norm(
                x.contiguous(), weight, bias, batch, channels, math.prod(x.shape[2:]), channels, EPS
            )
            return F.leaky_relu_(out, SLOPE), mean, rstd
        out = torch.empty_like(x)
        parts = [_forward(x[part], weight, bias, out[part]) for part in _parts(x)]
        return out, torch.cat([mean for mean, _ in parts]), torch.cat([rstd for _, rstd in parts])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:], output[0] if inputs[0].dtype == torch.bfloat16 else None)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias, mean, rstd, out = ctx.saved_tensors
        # gradients may have another memory format than the map; torch is slow where formats mix (values are the same)
        above = grad_outputs[0]
        if x.is_contiguous(memory_format=torch.channels_last_3d):
            above = above.contiguous(memory_format=torch.channels_last_3d)
        if torch.is_grad_enabled():  # for second derivatives the statistics must depend on x
            wide = _full(x)
            variance, mean = torch.var_mean(wide, (2, 3, 4), correction=0)
            grad, along, total = _backward(wide, weight, bias, mean, torch.rsqrt(variance + EPS), _full(above), None)
            return grad.to(x.dtype), along.sum(0), total.sum(0)
        result = torch.empty_like(x)
        sums = []
        for part in _parts(x):
            if out is not None and len(x[part]) == 1:
                sums.append(_backward_sample(x[part], weight, mean[part], rstd[part], above[part], out[part], result[part]))
            else:
                grad, *found = _backward(_full(x[part]), weight, bias, mean[part], rstd[part], _full(above[part]), result[part])
                sums.append(found)
        return result, torch.cat([along for along, _ in sums]).sum(0), torch.cat([total for _, total in sums]).sum(0)


def _forward(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and reciprocal standard deviation (B, C) of channels-last maps; their norm and activation go to ``out``."""
    if x.dtype == torch.bfloat16 and len(x) == 1:  # then a batch norm is an instance norm, in two passes with float32 statistics
        normed, mean, rstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, EPS)
        torch.ops.aten.leaky_relu.out(normed, SLOPE, out=out)
        return mean[None], rstd[None]
    # on these maps torch takes the variance as E[x^2] - E[x]^2 of float32 sums, which loses all digits where a map is nearly flat
    wide = _full(x)
    mean = wide.mean((2, 3, 4))
    normed = wide - _wide(mean)
    rstd = torch.rsqrt((normed * normed).mean((2, 3, 4)) + EPS)
    torch.addcmul(_wide(bias.expand_as(rstd)), normed, _wide(rstd * weight), out=normed)
    out.copy_(F.leaky_relu_(normed, SLOPE))
    return mean, rstd


def _backward_sample(
    x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, above: Tensor, out: Tensor, result: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients (1, C) of weight and bias from one bf16 sample; that of the sample goes to ``result``."""
    inner = torch.ops.aten.leaky_relu_backward(above, out, SLOPE, True)  # the sign of the result is that of its argument
    grad, along, total = torch.ops.aten.native_batch_norm_backward(
        inner, x, weight, None, None, mean[0], rstd[0], True, EPS, [True, True, True]
    )
    result.copy_(grad)
    return along[None], total[None]


def _backward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, above: Tensor, result: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, and those of weight and bias (B, C) by sample. That of x also goes to ``result``, if given."""
    scale = rstd * weight
    inside = torch.addcmul(_wide(bias - mean * scale), x, _wide(scale))
    grad = torch.ops.aten.leaky_relu_backward(above, inside, SLOPE, False)
    total = grad.sum((2, 3, 4))
    along = rstd * ((grad * x).sum((2, 3, 4)) - mean * total)  # sum of grad * normalised x
    slope = -scale * rstd * along / math.prod(x.shape[2:])
    shift = -scale * total / math.prod(x.shape[2:]) - slope * mean
    found = torch.addcmul(torch.addcmul(_wide(shift), x, _wide(slope)), grad, _wide(scale))
    if result is not None:
        result.copy_(found)
    return found, along, total


def norm_act(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return instance norm of (B, C, X, Y, Z) with scale ``weight`` (C; 1) and shift ``bias`` (C; 0), then the leaky ReLU.

    Statistics are float32 at least. So is the result, except of bf16 channels-last maps on a CPU: it stays bf16, because the next
    convolution would round it in any case. On a CPU the result has the memory format of ``x``. One voxel never deviates from its own
    mean: where only one is left, channels are normalised in groups instead.
    """
    given = x.dtype
    if not _stays(x):
        x = _full(x)  # as autocast does: statistics need the digits
        given = x.dtype
    if x.is_meta and not torch.is_grad_enabled():  # only the shape matters there, and torch computes it slowly
        return torch.empty_like(x)
    channels = x.shape[1]
    exact = torch.promote_types(given, torch.float32)
    weight = x.new_ones(channels, dtype=exact) if weight is None else weight
    bias = x.new_zeros(channels, dtype=exact) if bias is None else bias
    if math.prod(x.shape[2:]) > 1:
        return NormAct.apply(x, weight, bias)[0]  # type: ignore[index]
    x = _full(x)
    if channels == 1:  # nothing to compare with
        return F.leaky_relu(x * _wide(weight) + _wide(bias), SLOPE).to(given)
    return F.leaky_relu(F.group_norm(x, _groups(channels), weight, bias, EPS), SLOPE).to(given)


def _groups(channels: int) -> int:
    """Return into how many groups of 8 channels or a few more two or more channels of one voxel go."""
    return channels // next(size for size in range(min(8, channels), channels + 1) if channels % size == 0)


def plain_norm(x: Tensor) -> Tensor:
    """Return instance norm of (B, C, X, Y, Z) without scale, shift or activation: float32 at least.

    Where one voxel is left, channels are normalised in groups, as by ``norm_act``.
    """
    x, channels = _full(x), x.shape[1]
    if x.is_meta and not torch.is_grad_enabled():  # only the shape matters there
        return torch.empty_like(x)
    if math.prod(x.shape[2:]) > 1:
        return F.group_norm(x, channels, eps=EPS)
    return x if channels == 1 else F.group_norm(x, _groups(channels), eps=EPS)


class Norm(nn.Module):
    """Instance norm with scale and shift, then a leaky ReLU: (B, C, X, Y, Z) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return each sample normalised by itself, so that a prediction never depends on its batch."""
        return norm_act(x, self.weight, self.bias)
