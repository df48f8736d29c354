"""Many linear candidates, one kernel: the weighted sum of small convolution kernels that share a centre.

Convolution is linear, so ``sum_o c_o * conv(x, K_o) = conv(x, sum_o c_o * pad(K_o))`` with zero padding, no bias, one stride and one
group. The sum is accumulated in place into slices of one buffer: no padded copy of any kernel is ever made.
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
