"""One kernel for many linear candidates: the weighted sum of small convolution kernels that share a centre.

Convolution is linear, so ``sum_o c_o * conv(x, K_o) = conv(x, sum_o c_o * pad(K_o))`` with zero padding, no bias, one stride and
one group. The sum is accumulated in place into slices of one buffer: no padded copy of a kernel is ever made, and no kernel of a
factored candidate. Its gradient is written by hand for the same reason: one pass an operation, no graph of small steps. Kernels
are small and many, and starting an operation costs as much as doing it: edges with the same candidates and widths go together.

A *form* says how a kernel is made of its factors (shapes of one edge; inside, a group of E edges has a leading axis E):

=========  =======================================================  ======================================
plain      kernel (cout, cin, kx, ky, kz)                           itself
chain      plane (m, cin, kx, ky, 1), axis (cout, m, 1, 1, kz)      sum_m axis[o, m, z] plane[m, i, x, y]
product    point (cout, cin, 1, 1, 1), depth (cin, 1, kx, ky, kz)   point[o, i] depth[i, x, y, z]
constant   point (cout, cin, 1, 1, 1), or nothing: the unit matrix  point[o, i] / (kx ky kz)
zero       nothing                                                  0
=========  =======================================================  ======================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Form = Literal["plain", "chain", "product", "constant", "zero"]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One kernel of a sum: its form, its extent and its factors."""

    form: Form
    size: Size
    factors: tuple[Tensor, ...]


Layout = tuple[tuple[Form, Size, int], ...]  #: form, extent and number of factors of every part


def _inner(total: Tensor, size: Size) -> Tensor:
    """Return the view of a buffer (E, cout, cin, kx, ky, kz) that kernels of extent ``size`` with the same centre cover."""
    for axis, narrow in enumerate(size, 3):
        if total.shape[axis] != narrow:
            total = total.narrow(axis, (total.shape[axis] - narrow) // 2, narrow)
    return total


def _axis_first(axis: Tensor) -> Tensor:
    """Return an axis factor (E, cout, m, 1, 1, kz) as matrices (E, kz * cout, m)."""
    return axis[:, :, :, 0, 0].permute(0, 3, 1, 2).reshape(len(axis), -1, axis.shape[2])


def _add(view: Tensor, form: Form, size: Size, column: Tensor, factors: Sequence[Tensor]) -> None:
    """Add ``column[e, o] * kernel[e, o]`` to a view of the buffer; column: (E, cout, 1, 1, 1, 1)."""
    if form == "zero":
        return
    if form == "plain":
        view.addcmul_(factors[0], column)
    elif form == "chain":
        plane, axis = factors
        product = _axis_first(axis * column) @ plane.flatten(2)  # (E, kz * cout, cin * kx * ky)
        view.add_(product.view(len(view), size[2], *view.shape[1:5]).permute(0, 2, 3, 4, 5, 1))
    elif form == "product":
        view.addcmul_(factors[0] * column, factors[1].transpose(1, 2))
    elif factors:
        view.add_(factors[0] * column, alpha=1 / math.prod(size))
    elif torch.compiler.is_exporting():  # the exporter to ONNX does not take a write to a diagonal
        eye = torch.eye(*view.shape[1:3], dtype=view.dtype, device=view.device)[None, :, :, None, None, None]
        view.add_(eye * column, alpha=1 / math.prod(size))
    else:
        view.diagonal(0, 1, 2).add_(column.view(len(view), 1, 1, 1, -1), alpha=1 / math.prod(size))


def _gradients(grad: Tensor, form: Form, size: Size, column: Tensor, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the column (E, cout) and of the factors; grad: of the view that ``_add`` wrote to."""
    voxels = (2, 3, 4, 5)
    if form == "zero":
        return (grad.new_zeros(grad.shape[:2]),)
    if form == "plain":
        return (grad * factors[0]).sum(voxels), grad * column
    if form == "chain":
        plane, axis = factors
        moved = grad.permute(0, 5, 1, 2, 3, 4).reshape(len(grad), size[2] * grad.shape[1], -1)  # (E, kz * cout, cin * kx * ky)
        inner = (moved @ plane.flatten(2).transpose(1, 2)).view(len(grad), size[2], *axis.shape[1:3])
        inner = inner.permute(0, 2, 3, 1)[:, :, :, None, None]
        return (inner * axis).sum(voxels), (_axis_first(axis * column).transpose(1, 2) @ moved).view(plane.shape), inner * column
    if form == "product":
        point, depth = factors
        inner = (grad * depth.transpose(1, 2)).sum((3, 4, 5), keepdim=True)
        return (inner * point).sum(voxels), inner * column, (grad * (point * column)).sum(1)[:, :, None]
    share = 1 / math.prod(size)
    if factors:
        inner = grad.sum((3, 4, 5), keepdim=True) * share
        return (inner * factors[0]).sum(voxels), inner * column
    return (grad.diagonal(0, 1, 2).sum((1, 2, 3)) * share,)


def _columns(coefficients: Tensor) -> tuple[Tensor, ...]:
    """Return coefficients (E, n, cout) as n columns (E, cout, 1, 1, 1, 1)."""
    return coefficients.view(*coefficients.shape, 1, 1, 1, 1).unbind(1)


def _stack(factors: Sequence[Tensor], edges: int) -> list[Tensor]:
    """Return the factors, all those of the first edge first, stacked over the edges."""
    each = len(factors) // edges
    return [factors[i][None] if edges == 1 else torch.stack(list(factors[i::each])) for i in range(each)]


class MergeKernels(torch.autograd.Function):
    """``sum_o coefficients[e, o, :, None, None, None, None] * pad(kernel[e, o])``; differentiable any number of times."""

    generate_vmap_rule = True

    @staticmethod
    def forward(layout: Layout, shape: tuple[int, ...], coefficients: Tensor, *factors: Tensor) -> Tensor:
        stacked = iter(_stack(factors, len(coefficients)))
        total: Tensor | None = None
        for (form, size, count), column in zip(layout, _columns(coefficients), strict=True):
            own = [next(stacked) for _ in range(count)]
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
        stacked = iter(_stack(factors, len(coefficients)))
        inner: list[Tensor] = []
        grads: list[tuple[Tensor, ...]] = []
        for (form, size, count), column in zip(ctx.layout, _columns(coefficients), strict=True):
            own = [next(stacked) for _ in range(count)]
            first, *rest = _gradients(_inner(grad, size), form, size, column, own)
            inner.append(first)
            grads += [each.unbind(0) for each in rest]
        return (None, None, torch.stack(inner, 1), *(each[edge] for edge in range(len(coefficients)) for each in grads))


def merge_kernels(coefficients: Tensor, edges: Sequence[Sequence[Part]], cin: int) -> tuple[Tensor, ...]:
    """Return one kernel (cout, cin, kx, ky, kz) an edge, as large as the largest of its parts.

    coefficients: (len(edges), number of parts, cout); all edges have the same forms and sizes, each its own factors.
    """
    sizes = [part.size for part in edges[0]]
    kernel = (max(s[0] for s in sizes), max(s[1] for s in sizes), max(s[2] for s in sizes))
    shape = (len(edges), coefficients.shape[2], cin, *kernel)
    layout = tuple((part.form, part.size, len(part.factors)) for part in edges[0])
    factors = [factor for parts in edges for part in parts for factor in part.factors]
    return MergeKernels.apply(layout, shape, coefficients, *factors).unbind(0)  # type: ignore[union-attr, no-any-return]
