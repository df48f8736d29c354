"""Penalties on alphas: beta-decay and the zero-one loss of Fair-DARTS."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from metanas_med.learner.regularizers import REGULARIZERS
from metanas_med.learner.regularizers.beta_decay import mean_logsumexp
from metanas_med.space.choice import Relaxed

from .toy import JOINT, SOFT, ToySupport, make_net, settings
from .watch import run


def penalty_of(name: str, **given: Any) -> Any:
    kind = REGULARIZERS.entry(name).settings
    assert kind is not None
    return REGULARIZERS.build(name, kind(**given)).on(make_net(), ToySupport().task())


def test_beta_decay_is_the_mean_logsumexp_and_its_gradient_the_softmax() -> None:
    net = make_net(dtype=torch.float64, spread=0.5)
    rows = list(net.alphas().values())
    by_hand = sum(math.log(sum(math.exp(a) for a in row.tolist())) for row in rows) / len(rows)
    found = mean_logsumexp(net)
    assert float(found.detach()) == pytest.approx(by_hand, abs=1e-12)
    for row, grad in zip(rows, torch.autograd.grad(found, rows), strict=True):
        torch.testing.assert_close(grad, row.detach().softmax(0) / len(rows))


def test_the_weight_of_beta_decay_grows_with_the_progress_of_the_search() -> None:
    penalty, net = penalty_of("beta_decay", end=8.0), make_net(spread=0.3)
    base = float(mean_logsumexp(net).detach())
    for progress, weight in ((0.0, 0.0), (0.25, 2.0), (1.0, 8.0)):
        net.body.relax(Relaxed(progress=progress))
        assert float(penalty(net).detach()) == pytest.approx(weight * base, rel=1e-6)


def test_fair_darts_pushes_each_option_to_its_nearer_end() -> None:
    penalty, net = penalty_of("fair_darts"), make_net(dtype=torch.float64, spread=1.0)
    rows = list(net.alphas().values())
    every = [a for row in rows for a in row.tolist()]
    by_hand = -10 * sum((1 / (1 + math.exp(-a)) - 0.5) ** 2 for a in every) / len(every)
    found = penalty(net)
    assert float(found.detach()) == pytest.approx(by_hand, abs=1e-12)
    for row, grad in zip(rows, torch.autograd.grad(found, rows), strict=True):
        assert torch.equal(grad.sign(), -row.detach().sign())  # a step downhill moves alphas away from 0


@pytest.mark.parametrize("level", [{}, JOINT])
def test_beta_decay_reaches_the_alphas_of_a_search(level: dict[str, Any]) -> None:
    """Its slope is positive for every alpha: where it dominates, Adam moves all of them down by the learning rate."""
    part = [{"name": "beta_decay", "start": 1e6, "end": 1e6}]
    before, net = make_net(spread=0.1), make_net(spread=0.1)
    run(settings(steps=2, alpha_lr=0.05, alpha_decay=0.0, regularizers=part, **SOFT, **level), ToySupport(2), net)
    for row, start in zip(net.alphas().values(), before.alphas().values(), strict=True):
        torch.testing.assert_close(row, start - 2 * 0.05, rtol=0, atol=5e-3)


def test_the_penalty_of_drnas_is_the_divergence_from_the_uniform_dirichlet() -> None:
    """``KL(Dir(b), Dir(1)) = log G(sum b) - sum log G(b) - log G(n) + sum (b - 1) (psi(b) - psi(sum b))``."""
    penalty, net = penalty_of("dirichlet_kl", weight=2.0), make_net(dtype=torch.float64, spread=0.7)
    by_hand = 0.0
    for row in net.alphas().values():
        b = torch.tensor([a + 1 if a > 0 else math.exp(a) for a in row.tolist()], dtype=torch.float64)
        total = b.sum()
        by_hand += float(torch.lgamma(total) - torch.lgamma(b).sum() - math.lgamma(len(b)))
        by_hand += float(((b - 1) * (torch.digamma(b) - torch.digamma(total))).sum())
    assert float(penalty(net).detach()) == pytest.approx(2.0 * by_hand, rel=1e-4)
    assert float(penalty(make_net(dtype=torch.float64)).detach()) == pytest.approx(0.0, abs=1e-9)  # at alphas of zero
    norm = torch.cat(list(net.alphas().values())).norm()
    assert float(penalty_of("dirichlet_kl", form="l2")(net).detach()) == pytest.approx(1e-3 * float(norm.detach()))
