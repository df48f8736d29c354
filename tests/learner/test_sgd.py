"""Plain gradient steps against torch's own SGD; what a run leaves as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med import l2l
from metanas_med.learner import NonFiniteLossError, SgdLearner, SgdSettings, build_learner
from metanas_med.learner.base import QueryGradient
from metanas_med.learner.weights import trained

from .toy import ToySupport, context, make_net
from .watch import loss_of, state_of


@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_steps_are_those_of_torch(clip: float) -> None:
    support, net = ToySupport(3, dtype=torch.float64), make_net("unet", torch.float64)
    twin, seen = copy.deepcopy(net), []
    settings = SgdSettings(steps=3, batch=2, lr=0.1, head="meta_row", clip=clip)
    learner = build_learner(settings)
    adapted = learner.run(net, support.task(), context(on_step=lambda step, loss: seen.append((step, loss))))
    assert isinstance(learner, SgdLearner) and adapted.net is net and adapted.gradient is None
    twin.start_task(1, 1)
    parameters = list(trained(twin).values())
    optimizer, losses = torch.optim.SGD(parameters, lr=0.1), []
    for batch in support.batches:
        loss = loss_of(twin, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert [loss for _, loss in seen] == adapted.report.losses == pytest.approx(losses, rel=1e-5)
    assert [step for step, _ in seen] == [0, 1, 2] and adapted.report.gradient_evaluations == 3
    start = state_of(make_net("unet", torch.float64))
    for name, value in state_of(twin).items():
        torch.testing.assert_close(net.get_parameter(name).detach(), value, rtol=1e-4, atol=1e-7)
    assert any(not torch.equal(net.get_parameter(name), value) for name, value in start.items() if name.startswith("body."))


def test_alphas_stay_and_the_closed_form_starts_the_head() -> None:
    net, support = make_net(spread=0.3), ToySupport(2)
    before = {n: a.detach().clone() for n, a in net.alphas().items()}
    adapted = build_learner(SgdSettings(steps=2, batch=1, ridge_voxels=60)).run(net, support.task(), context())
    assert all(torch.equal(a, before[n]) and a.requires_grad for n, a in net.alphas().items())
    assert adapted.report.ridge_strength is not None and adapted.report.alpha == "frozen" and adapted.report.genotype is None


@pytest.mark.skipif(not l2l.has_learn2learn(), reason="learn2learn is not installed")
@pytest.mark.learn2learn
@pytest.mark.parametrize("order", ["first_order", "exact"])
def test_one_scan_is_both_seen_and_judged(order: QueryGradient) -> None:
    support = ToySupport(1)
    given = SgdSettings(steps=1, batch=2, head="meta_row")
    adapted = build_learner(given).run(make_net("unet"), support.task(), context(query_gradient=order))
    assert adapted.gradient is not None and support.requests == [(2, (0,)), (2, (0,))]


@pytest.mark.skipif(not l2l.has_learn2learn(), reason="learn2learn is not installed")
@pytest.mark.learn2learn
@pytest.mark.parametrize("order", ["", "first_order"])
def test_a_loss_that_is_not_finite_raises_and_alphas_need_gradients_again(order: QueryGradient) -> None:
    class Broken(ToySupport):
        def scan(self, number: int) -> tuple[Tensor, Tensor]:
            image, labels = super().scan(number)
            image[0, 3, 3, 3] = float("nan")
            return image, labels

    net: Any = make_net()
    with pytest.raises(NonFiniteLossError):
        build_learner(SgdSettings(steps=1, head="meta_row")).run(net, Broken(2).task(), context(query_gradient=order))
    assert all(a.requires_grad for a in net.alphas().values())
