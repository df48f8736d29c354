"""Many linear candidates, one kernel: the weighted sum of small convolution kernels that share a centre.

Convolution is linear, so ``sum_o c_o * conv(x, K_o) = conv(x, sum_o c_o * pad(K_o))`` with zero padding, no bias, one stride and
one group. The sum is accumulated in place into slices of one buffer: no padded copy of a kernel is ever made, and no kernel of a
factored candidate. Its gradient is written by hand for the same reason: one pass an operation, no graph of small steps.

A *form* says how a kernel is made of its factors, and adds it to the buffer:

=========  =======================================================  ======================================
plain      kernel (cout, cin, kx, ky, kz)                           itself
chain      plane (m, cin, kx, ky, 1), axis (cout, m, 1, 1, kz)      sum_m axis[o, m, z] plane[m, i, x, y]
product    point (cout, cin, 1, 1, 1), depth (cin, 1, kx, ky, kz)   point[o, i] depth[i, x, y, z]
constant   point (cout, cin, 1, 1, 1), or nothing: the unit matrix  point[o, i] / (kx ky kz)
=========  =======================================================  ======================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Form = Literal["plain", "chain", "product", "constant"]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One kernel of a sum: its form, its extent and its factors."""

    form: Form
    size: Size
    factors: tuple[Tensor, ...]


def _inner(total: Tensor, size: Size) -> Tensor:
    """Return the view of a buffer (cout, cin, kx, ky, kz) that a kernel of extent ``size`` with the same centre covers."""
    for axis, narrow in enumerate(size, 2):
        if total.shape[axis] != narrow:
            total = total.narrow(axis, (total.shape[axis] - narrow) // 2, narrow)
    return total


def _add(view: Tensor, form: Form, size: Size, column: Tensor, factors: Sequence[Tensor]) -> None:
    """Add ``column[o] * kernel[o]`` to a view of the buffer; column: (cout, 1, 1, 1, 1)."""
    if form == "plain":
        view.addcmul_(factors[0], column)
    elif form == "chain":
        plane, axis = factors
        scaled = (axis * column)[:, :, 0, 0].permute(2, 0, 1)  # (kz, cout, m)
        product = (scaled.reshape(-1, plane.shape[0]) @ plane.flatten(1)).view(size[2], *view.shape[:4])
        view.add_(product.permute(1, 2, 3, 4, 0))
    elif form == "product":
        view.addcmul_(factors[0] * column, factors[1].transpose(0, 1))
    elif factors:
        view.add_(factors[0] * column, alpha=1 / math.prod(size))
    else:
        view.diagonal(0, 0, 1).add_(column.view(-1), alpha=1 / math.prod(size))


def _gradients(grad: Tensor, form: Form, size: Size, column: Tensor, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients with respect to the column (cout,) and to the factors; grad: of the view that ``_add`` wrote to."""
    if form == "plain":
        return (grad * factors[0]).sum((1, 2, 3, 4)), grad * column
    if form == "chain":
        plane, axis = factors
        moved = grad.permute(4, 0, 1, 2, 3).reshape(size[2] * len(axis), -1)  # (kz * cout, cin * kx * ky)
        scaled = (axis * column)[:, :, 0, 0].permute(2, 0, 1).reshape(-1, plane.shape[0])
        inner = (moved @ plane.flatten(1).t()).view(size[2], *axis.shape[:2]).permute(1, 2, 0)[:, :, None, None]
        return (inner * axis).sum((1, 2, 3, 4)), (scaled.t() @ moved).view(plane.shape), inner * column
    if form == "product":
        point, depth = factors
        inner = (grad * depth.transpose(0, 1)).sum((2, 3, 4), keepdim=True)
        return (inner * point).sum((1, 2, 3, 4)), inner * column, (grad * (point * column)).sum(0)[:, None]
    share = 1 / math.prod(size)
    if factors:
        inner = grad.sum((2, 3, 4), keepdim=True) * share
        return (inner * factors[0]).sum((1, 2, 3, 4)), inner * column
    return (grad.diagonal(0, 0, 1).sum((0, 1, 2)) * share,)


class MergeKernels(torch.autograd.Function):
    """``sum_o coefficients[o, :, None, None, None, None] * pad(kernel_o)``; differentiable as often as one likes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        layout: tuple[tuple[Form, Size, int], ...], shape: tuple[int, ...], coefficients: Tensor, *factors: Tensor
    ) -> Tensor:
        columns = coefficients[:, :, None, None, None, None].unbind(0)
        total: Tensor | None = None
        start = 0
        for (form, size, count), column in zip(layout, columns, strict=True):
            own = factors[start : start + count]
            start += count
            if total is None and form == "plain" and own[0].shape == shape:
                total = own[0] * column  # opens the buffer and fills it in one pass
                continue
            total = coefficients.new_zeros(shape) if total is None else total
            _add(_inner(total, size), form, size, column, own)
        assert total is not None, "nothing to merge"
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layout = inputs[0]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # only differentiable operations: with create_graph=True autograd records them and can go through once more
        grad = grad_outputs[0].contiguous()
        coefficients, *factors = ctx.saved_tensors
        columns = coefficients[:, :, None, None, None, None].unbind(0)
        inner: list[Tensor] = []
        grads: list[Tensor] = []
        for (form, size, count), column in zip(ctx.layout, columns, strict=True):
            own, factors = factors[:count], factors[count:]
            first, *rest = _gradients(_inner(grad, size), form, size, column, own)
            inner.append(first)
            grads += rest
        return (None, None, torch.stack(inner), *grads)


def merge_kernels(coefficients: Tensor, parts: Sequence[Part], cin: int) -> Tensor:
    """Return one kernel (cout, cin, kx, ky, kz), as large as the largest of the parts; coefficients: (len(parts), cout)."""
    sizes = [part.size for part in parts]
    shape = (coefficients.shape[1], cin, max(s[0] for s in sizes), max(s[1] for s in sizes), max(s[2] for s in sizes))
    layout = tuple((part.form, part.size, len(part.factors)) for part in parts)
    factors = [factor for part in parts for factor in part.factors]
    return MergeKernels.apply(layout, shape, coefficients, *factors)  # type: ignore[no-any-return]
