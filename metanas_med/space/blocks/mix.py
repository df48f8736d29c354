"""Weighted sums of feature maps whose weights have gradients; the product of two maps is never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a * b, in float32 at least, without storing the product, which would cost more than the rest of the gradient."""
    if a.dtype != b.dtype or a.dtype not in (torch.float32, torch.float64, torch.bfloat16) or a.ndim != 5:
        return (a * b).sum()
    if b.is_contiguous(memory_format=torch.channels_last_3d):  # one view in the order of memory
        a, b = a.permute(0, 2, 3, 4, 1), b.permute(0, 2, 3, 4, 1)
    if a.dtype == torch.bfloat16:  # the result of each product is rounded: one a sample, added in float32
        parts = [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]
        return torch.stack(parts).sum(dtype=torch.float32)
    return torch.dot(a.reshape(-1), b.reshape(-1))


class Mix(torch.autograd.Function):
    """``p * a + q * b`` for two scalars; p None is 1, and without b it is ``p * a``. Differentiable any number of times."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, p: Tensor | None, b: Tensor | None, q: Tensor | None) -> Tensor:
        scaled = a if p is None else a * p
        return scaled if b is None or q is None else torch.addcmul(scaled, b, q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        a, p, b, q = inputs
        ctx.save_for_backward(None if p is None else a, p, b, q)  # a map without a weight is not needed again

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
