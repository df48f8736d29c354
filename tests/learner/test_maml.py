"""learn2learn's MAML against torch.func on small 3D networks of ours, and how it is imported."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanas_med import l2l
from metanas_med.errors import UserError
from metanas_med.learner import Runtime, SgdSettings, build_learner, maml_gradient
from metanas_med.learner.losses import segmentation_loss
from metanas_med.learner.relaxations import SoftmaxSettings
from metanas_med.meta import FomamlSettings, build_meta
from metanas_med.space import get_space, read_space_settings
from metanas_med.space.network import SegmentationNet

from .toy import ToySupport, context, soft, tau_of

needs_learn2learn = pytest.mark.skipif(not l2l.has_learn2learn(), reason="learn2learn is not installed")
STRIDES = ((2, 2, 1), (2, 2, 2))
Batch = tuple[Tensor, Tensor, Tensor]


def make_net(name: str, seed: int = 0) -> SegmentationNet:
    torch.manual_seed(seed)
    space = read_space_settings(
        {"name": name, "base_width": 2, "max_width": 4, "levels": 3, "nodes": (1, 2), "coarse_from": 2, "search_depth": True}
    )
    net = SegmentationNet(get_space(space).build(None), num_channels=2, num_organs=2).double()
    if name != "unet":
        with torch.no_grad():
            for row in net.alphas().values():
                row.normal_(0, 0.3)
    return net


def make_batch(seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    shape = (8, 7, 4)
    images = torch.randn(2, 2, *shape, generator=g, dtype=torch.float64)
    coords = torch.rand(2, 3, *shape, generator=g, dtype=torch.float64) * 2 - 1
    return images, coords, torch.randint(3, (2, *shape), generator=g)


def loss(net: Any, batch: Batch) -> Tensor:
    images, coords, labels = batch
    return F.cross_entropy(net(images, coords, STRIDES), labels)


def exact(net: SegmentationNet, support: Batch, query: Batch, lr: float, steps: int) -> dict[str, Tensor]:
    """Return the meta-gradient by functional_call and gradients of gradients."""

    def inner(parameters: dict[str, Tensor], batch: Batch) -> Tensor:
        images, coords, labels = batch
        return F.cross_entropy(torch.func.functional_call(net, parameters, (images, coords, STRIDES)), labels)

    def outer(parameters: dict[str, Tensor]) -> Tensor:
        for _ in range(steps):
            grads = torch.func.grad(inner)(parameters, support)
            parameters = {name: p - lr * grads[name] for name, p in parameters.items()}
        return inner(parameters, query)

    return torch.func.grad(outer)({name: p.detach().clone() for name, p in net.named_parameters()})


@needs_learn2learn
@pytest.mark.learn2learn
@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
@pytest.mark.parametrize("steps", [1, 2])
def test_second_order_gradient_equals_torch_func(name: str, steps: int) -> None:
    net, support, query = make_net(name), make_batch(1), make_batch(2)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    found, value = maml_gradient(net, loss, [support] * steps, query, lr=0.3)
    expected = exact(net, support, query, 0.3, steps)
    assert found.keys() == expected.keys() == before.keys()
    for n, gradient in expected.items():
        torch.testing.assert_close(found[n], gradient, rtol=1e-8, atol=1e-12)
        assert torch.equal(dict(net.named_parameters())[n], before[n])  # the network stays as it was
    assert value > 0 and all(p.grad is None for p in net.parameters())
    # the second derivatives are really in it
    first, _ = maml_gradient(net, loss, [support] * steps, query, lr=0.3, first_order=True)
    weights = [n for n in expected if n.startswith(("body.", "stem."))]
    assert max(float((first[n] - expected[n]).abs().max()) for n in weights) > 1e-5
    assert any(expected[n].abs().max() > 0 for n in weights)


@needs_learn2learn
@pytest.mark.learn2learn
def test_first_order_is_the_query_gradient_at_the_adapted_network() -> None:
    net, support, query = make_net("unet"), make_batch(1), make_batch(2)
    found, _ = maml_gradient(net, loss, [support], query, lr=0.2, first_order=True)
    moved = make_net("unet")
    grads = torch.autograd.grad(loss(moved, support), list(moved.parameters()))
    with torch.no_grad():
        for p, g in zip(moved.parameters(), grads, strict=True):
            p.sub_(0.2 * g)
    expected = torch.autograd.grad(loss(moved, query), list(moved.parameters()))
    for gradient, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-12)


@needs_learn2learn
@pytest.mark.learn2learn
def test_no_steps_give_the_plain_gradient() -> None:
    net, query = make_net("unet_supernet"), make_batch(2)
    found, value = maml_gradient(net, loss, [], query, lr=0.2)
    plain = loss(net, query)
    expected = torch.autograd.grad(plain, list(net.parameters()))
    assert value == pytest.approx(float(plain.detach()), rel=1e-12)
    for gradient, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-14)


@needs_learn2learn
@pytest.mark.learn2learn
def test_importing_prints_nothing() -> None:
    code = "from metanas_med.l2l import import_learn2learn as f; assert f().algorithms.MAML and f() is f()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_without_it_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(l2l, "has_learn2learn", lambda: False)
    monkeypatch.delitem(sys.modules, "learn2learn", raising=False)
    with pytest.raises(UserError, match=r"setup\.sh.*\n.*pip install .*learn2learn==0\.2\.0"):
        maml_gradient(make_net("unet"), loss, [make_batch(1)], make_batch(2), lr=0.1)


@needs_learn2learn
@pytest.mark.learn2learn
@pytest.mark.parametrize("order", ["first_order", "exact"])
@pytest.mark.parametrize("clip", [1e9, 0.01])
def test_the_query_gradient_is_that_of_autograd_through_the_steps(clip: float, order: Any) -> None:
    """Against inner steps written out by hand, on a scan that they do not see."""
    support = ToySupport(num_scans=3, dtype=torch.float64)
    settings = SgdSettings(steps=2, batch=2, lr=0.2, head="meta_row", clip=clip)
    net, task = make_net("unet"), support.task()
    hand = copy.deepcopy(net)
    given = context(runtime=Runtime(channels_last=False), query_gradient=order)
    adapted = build_learner(settings).run(net, task, given)
    scans = [set(b.scans) for b in support.batches]
    assert len(scans) == 3 and not (scans[0] | scans[1]) & scans[2]  # judged on a scan that was not trained on
    hand.start_task(1, 1)
    start = {n: p.detach().clone().requires_grad_() for n, p in hand.named_parameters()}
    criterion = segmentation_loss()

    def loss_at(parameters: dict[str, Tensor], batch: Any) -> Tensor:
        logits = torch.func.functional_call(hand, parameters, (batch.images, batch.coords, task.strides))
        return criterion(logits, batch.labels)

    moved: dict[str, Tensor] = dict(start)
    for batch in support.batches[:2]:
        grads = torch.autograd.grad(loss_at(moved, batch), list(moved.values()), create_graph=order == "exact", allow_unused=True)
        moved = {n: p if g is None else p - 0.2 * g for (n, p), g in zip(moved.items(), grads, strict=True)}
    query = loss_at(moved, support.batches[2])
    by = start if order == "exact" else moved
    found = dict(zip(by, torch.autograd.grad(query, list(by.values()), allow_unused=True), strict=True))
    expected = {n: torch.zeros_like(w) if (g := found[n]) is None else g for n, w in hand.weights().items()}
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    assert adapted.gradient is not None and adapted.gradient.keys() == expected.keys()
    for n, g in expected.items():
        torch.testing.assert_close(adapted.gradient[n], g * min(1.0, clip / float(norm)), rtol=1e-6, atol=1e-9)
    assert adapted.report.losses == [pytest.approx(float(query.detach()), rel=1e-6)]
    assert adapted.report.gradient_evaluations == 3
    for n, w in hand.weights().items():
        assert torch.equal(net.weights()[n], w)  # the network stays as it was


@needs_learn2learn
@pytest.mark.learn2learn
def test_inner_steps_move_no_alphas_and_start_at_their_own_temperature() -> None:
    support = ToySupport(num_scans=3, dtype=torch.float64)
    settings = SgdSettings(steps=2, batch=2, lr=0.2, head="meta_row", relaxation=SoftmaxSettings(tau_start=0.7))
    found = []
    for left_over in ((1.0, 0.0), (0.1, 0.3)):
        net: Any = make_net("unet_supernet")
        with torch.no_grad():
            for number, a in enumerate(net.alphas().values()):
                a.copy_(torch.linspace(-1, 1, a.numel(), dtype=a.dtype).view_as(a) * (1 + number % 3))
        before = {n: a.detach().clone() for n, a in net.alphas().items()}
        net.body.relax(soft(*left_over))  # as a validation leaves them
        given = context(runtime=Runtime(channels_last=False), query_gradient="first_order")
        gradient = build_learner(settings).run(net, support.task(), given).gradient
        assert gradient is not None and not any("alphas" in name for name in gradient)
        assert all(torch.equal(a, before[n]) and a.requires_grad for n, a in net.alphas().items())
        assert (tau_of(net), net.body.relaxed.prune) == (0.7, 0.0)
        found.append(gradient)
    assert all(torch.equal(found[0][n], g) for n, g in found[1].items())


@needs_learn2learn
@pytest.mark.learn2learn
def test_what_needs_no_gradient_takes_no_inner_step() -> None:
    net = nn.Linear(2, 1, bias=True)
    net.bias.requires_grad_(False)
    batch = torch.tensor([[1.0, 2.0]])
    seen: list[Tensor] = []

    def square(model: Any, x: Tensor) -> Tensor:
        seen.append(dict(model.named_parameters())["module.bias"].detach().clone())
        return model(x).square().sum()

    grads, _ = maml_gradient(net, square, [batch, batch], batch, lr=0.01, first_order=True)
    assert torch.equal(grads["bias"], torch.zeros(1)) and grads["weight"].abs().sum() > 0
    assert all(torch.equal(b, net.bias) for b in seen)


def test_a_missing_learn2learn_is_reported_before_the_first_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "learn2learn", raising=False)
    monkeypatch.setattr(l2l, "has_learn2learn", lambda: False)
    with pytest.raises(UserError, match="learn2learn is not installed"):
        build_meta(FomamlSettings())
