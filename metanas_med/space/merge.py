"""Many linear candidates, one kernel: the weighted sum of small convolution kernels that share a centre.

Convolution is linear, so ``sum_o c_o * conv(x, K_o) = conv(x, sum_o c_o * pad(K_o))`` with zero padding, no bias, one stride and
one group. The sum is accumulated in place into slices of one buffer: no padded copy of any kernel is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _inner(small: Sequence[int], large: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of a kernel of size ``large`` that one of size ``small`` with the same centre covers."""
    return tuple(slice((wide - narrow) // 2, (wide + narrow) // 2) for narrow, wide in zip(small, large, strict=True))


class MergeKernels(torch.autograd.Function):
    """``sum_o coefficients[o, :, None, None, None, None] * pad(kernels[o])``; differentiable as often as one likes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(coefficients: Tensor, *kernels: Tensor) -> Tensor:
        size = [max(kernel.shape[axis] for kernel in kernels) for axis in (2, 3, 4)]
        columns = coefficients[:, :, None, None, None, None].unbind(0)
        total: Tensor | None = None
        order = sorted(range(len(kernels)), key=lambda index: -kernels[index].shape[2:].numel())
        for index in order:
            kernel = kernels[index]
            if total is None:  # the largest kernel opens the buffer, which saves one pass over it when it fills it
                if list(kernel.shape[2:]) == size:
                    total = kernel * columns[index]
                    continue
                total = kernel.new_zeros(*kernel.shape[:2], *size)
            total[(slice(None), slice(None), *_inner(kernel.shape[2:], size))].addcmul_(kernel, columns[index])
        assert total is not None, "nothing to merge"
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # only differentiable operations: with create_graph=True autograd records them and can go through once more
        (grad,) = grad_outputs
        coefficients, *kernels = ctx.saved_tensors
        columns = coefficients[:, :, None, None, None, None].unbind(0)
        inner: list[Tensor] = []
        grads: list[Tensor | None] = []
        for kernel, column, needed in zip(kernels, columns, ctx.needs_input_grad[1:], strict=True):
            part = grad[(slice(None), slice(None), *_inner(kernel.shape[2:], grad.shape[2:]))]
            grads.append(part * column if needed else None)
            if ctx.needs_input_grad[0]:
                inner.append((part * kernel).sum((1, 2, 3, 4)))
        return (torch.stack(inner) if inner else None, *grads)


def merge_kernels(coefficients: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Return one kernel (cout, cin, kx, ky, kz), as large as the largest of ``kernels``; coefficients: (len(kernels), cout)."""
    return MergeKernels.apply(coefficients, *kernels)  # type: ignore[no-any-return]


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a * b without storing the product, which would cost more than all the rest of a gradient."""
    if a.dtype != b.dtype or a.dtype not in (torch.float32, torch.float64) or a.ndim != 5:
        return (a * b).sum()
    if b.is_contiguous(memory_format=torch.channels_last_3d):  # one view in the order of memory
        a, b = a.permute(0, 2, 3, 4, 1), b.permute(0, 2, 3, 4, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


class Mix(torch.autograd.Function):
    """``p * a + q * b`` for two scalars; p None is 1, and without b it is ``p * a``. Differentiable as often as one likes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, p: Tensor | None, b: Tensor | None, q: Tensor | None) -> Tensor:
        scaled = a if p is None else a * p
        return scaled if b is None or q is None else torch.addcmul(scaled, b, q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        a, p, b, q = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            (grad if p is None else grad * p) if needs[0] else None,
            _inner_product(grad, a) if needs[1] else None,
            grad * q if needs[2] else None,
            _inner_product(grad, b) if needs[3] else None,
        )


def mix(a: Tensor, p: Tensor | None, b: Tensor | None = None, q: Tensor | None = None) -> Tensor:
    """Return ``p * a + q * b`` of features (B, C, X, Y, Z) and scalars; None for a scalar is 1, None for b leaves it out."""
    if b is None:
        return a if p is None else Mix.apply(a, p, None, None)  # type: ignore[no-any-return]
    return a + b if p is None and q is None else Mix.apply(a, p, b, b.new_ones(()) if q is None else q)  # type: ignore[no-any-return]
