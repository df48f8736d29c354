"""The largest eigenvalue of a Hessian, from Hessian-vector products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def hessian_product(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[Product, int]:
    """Return ``v -> H v`` for the Hessian of ``loss`` by ``parameters`` at their present values, and its size n.

    ``v`` and ``H v`` are vectors (n,), the parameters one after the other. The graph of one gradient is built here and kept; a product
    is one backward pass through it (exact, no differences).
    """
    grads = torch.autograd.grad(loss(), list(parameters), create_graph=True, allow_unused=True)
    used = [p for p, g in zip(parameters, grads, strict=True) if g is not None and g.requires_grad]
    slopes = [g for g in grads if g is not None and g.requires_grad]

    def product(vector: Tensor) -> Tensor:
        parts = dict(zip(map(id, parameters), vector.split([p.numel() for p in parameters]), strict=True))
        along = [parts[id(p)].view_as(p).to(g) for p, g in zip(used, slopes, strict=True)]
        found = torch.autograd.grad(slopes, used, along, retain_graph=True, allow_unused=True) if used else ()
        columns = {id(p): f for p, f in zip(used, found, strict=True) if f is not None}
        return torch.cat([columns.get(id(p), torch.zeros_like(p)).reshape(-1).to(vector) for p in parameters])

    return product, sum(p.numel() for p in parameters)


def largest_eigenvalue(product: Product, size: int, iterations: int = 30, tolerance: float = 1e-3) -> float:
    """Return the largest (most positive) eigenvalue of the symmetric part of the n x n matrix behind ``product``.

    A power iteration that keeps its iterates as an orthonormal basis Q (Lanczos, with full orthogonalisation): the result is that of
    ``(T + T') / 2`` with ``T = Q' H Q``, so that rounding cannot make it complex. It ends when the value changes by less than
    ``tolerance`` twice in a row, after ``iterations`` products, or when the basis is complete (then it is exact).
    """
    generator = torch.Generator().manual_seed(0)  # a fixed start: the same Hessian gives the same value
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    basis: list[Tensor] = []
    images: list[Tensor] = []
    value, calm = float("nan"), 0
    for _ in range(min(iterations, size)):
        for _ in range(2):  # twice is enough: what rounding leaves of the basis in the first pass, the second removes
            for known in basis:
                vector = vector - (known @ vector) * known
        norm = float(vector.norm())
        if norm < 1e-10 * max(1.0, abs(value) if basis else 1.0):
            break
        basis.append(vector / norm)
        images.append(product(basis[-1]).double())
        small = torch.stack(basis) @ torch.stack(images).T
        found = float(torch.linalg.eigvalsh((small + small.T) / 2)[-1])
        calm = calm + 1 if abs(found - value) <= tolerance * abs(found) else 0
        value, vector = found, images[-1]
        if calm == 2:
            break
    return value
