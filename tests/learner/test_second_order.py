"""The finite differences of second-order DARTS against exact products of torch.func."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metanas_med.learner.alpha_gradients.second_order import hessian_vector, second_order_gradient


class Problem:
    """A small mixture of two layers: smooth in the weights and in alpha."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
        self.weights = [make(5, 4).requires_grad_(), make(5, 4).requires_grad_(), make(5).requires_grad_()]
        self.alphas = [make(2).requires_grad_(), make(2).requires_grad_()]
        self.data = [(make(12, 4), make(12)) for _ in range(2)]

    def loss(self, which: int, weights: list[Tensor], alphas: list[Tensor]) -> Tensor:
        x, y = self.data[which]
        p, q = alphas[0].softmax(0), alphas[1].softmax(0)
        h = p[0] * torch.tanh(x @ weights[0].T) + p[1] * F.softplus(x @ weights[1].T)
        return (q[0] * (h @ weights[2]) + q[1] * torch.sin(h).sum(1) - y).square().mean()

    def now(self, which: int) -> Tensor:
        return self.loss(which, self.weights, self.alphas)

    def mixed(self, which: int, weights: list[Tensor], vector: list[Tensor]) -> list[Tensor]:
        """Return the exact product: the alpha gradient's derivative along ``vector`` in weight space."""
        fixed = [a.detach() for a in self.alphas]

        def alpha_gradient(w: list[Tensor]) -> list[Tensor]:
            return torch.func.grad(lambda a: self.loss(which, w, a))(fixed)

        return torch.func.jvp(alpha_gradient, ([w.detach() for w in weights],), (vector,))[1]


def test_hessian_vector_product_is_exact_to_the_order_of_its_step() -> None:
    problem = Problem()
    g = torch.Generator().manual_seed(3)
    vector = [torch.randn(w.shape, generator=g, dtype=w.dtype) for w in problem.weights]
    exact = problem.mixed(0, problem.weights, vector)
    before = [w.detach().clone() for w in problem.weights]
    errors = []
    for step in (0.08, 0.04, 0.02):
        found = hessian_vector(lambda: problem.now(0), problem.weights, problem.alphas, vector, step)
        errors.append(max(float((f - e).abs().max()) for f, e in zip(found, exact, strict=True)))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05) and errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    fine = hessian_vector(lambda: problem.now(0), problem.weights, problem.alphas, vector, 1e-4)
    for f, e in zip(fine, exact, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(w, b) for w, b in zip(problem.weights, before, strict=True))


def test_a_zero_vector_gives_zeros_and_no_division() -> None:
    problem = Problem()
    found = hessian_vector(
        lambda: problem.now(0), problem.weights, problem.alphas, [torch.zeros_like(w) for w in problem.weights]
    )
    assert all(f.shape == a.shape and not f.any() for f, a in zip(found, problem.alphas, strict=True))


def test_the_whole_second_order_gradient_is_that_of_the_unrolled_step() -> None:
    problem, rate = Problem(), 0.05

    def unrolled(alphas: list[Tensor]) -> Tensor:
        weights = [w.detach() for w in problem.weights]
        grads = torch.func.grad(lambda w: problem.loss(0, w, alphas))(weights)
        return problem.loss(1, [w - rate * g for w, g in zip(weights, grads, strict=True)], alphas)

    alphas = [a.detach() for a in problem.alphas]
    exact = torch.func.grad(unrolled)(alphas)
    before = [w.detach().clone() for w in problem.weights]
    found, value = second_order_gradient(
        lambda: problem.now(0), lambda: problem.now(1), problem.weights, problem.alphas, rate, step=1e-4
    )
    for f, e in zip(found, exact, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-5, atol=1e-7)
    assert value == pytest.approx(float(unrolled(alphas)))
    assert all(torch.equal(w, b) for w, b in zip(problem.weights, before, strict=True))
    # the term is not small here: first order would be plainly different
    first = torch.autograd.grad(problem.now(1), problem.alphas)
    assert max(float((f - e).abs().max()) for f, e in zip(first, exact, strict=True)) > 1e-2
