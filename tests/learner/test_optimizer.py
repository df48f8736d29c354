"""The optimizers of weights: Adam as torch has it, Muon against a singular value decomposition, moments that can be taken along."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanas_med.learner import Runtime
from metanas_med.learner.optimizer import Group, ManyMuon, Optimizer
from metanas_med.space import UNetSupernetSettings, derive, genotype, get_space
from metanas_med.space.network import SegmentationNet

BETAS = (0.9, 0.99)


def make_params(seed: int = 0) -> dict[str, nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"kernel": (6, 4, 3, 3, 1), "depthwise": (8, 1, 3, 3, 3), "norm": (6,), "rows": (3, 9)}
    return {n: nn.Parameter(torch.randn(s, generator=g)) for n, s in shapes.items()}


def make_optimizer(params: dict[str, nn.Parameter], kind: str, keep_norms: bool = False) -> Optimizer:
    body = Group([params["kernel"], params["depthwise"], params["norm"]], 0.01, 0.05)
    return Optimizer([body, Group([params["rows"]], 0.02)], kind, BETAS, keep_norms=keep_norms)


def _lies_otherwise(gradient: Tensor, p: Tensor) -> bool:
    return any(size > 1 and a != b for size, a, b in zip(p.shape, gradient.stride(), p.stride(), strict=True))


def take_steps(params: dict[str, nn.Parameter], optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        g = torch.Generator().manual_seed(100 + step)
        for p in params.values():
            p.grad = torch.randn(p.shape, generator=g)
        optimizer.step()


def test_adam_is_torchs_adam() -> None:
    ours, theirs = make_params(), make_params()
    groups = [
        {"params": [theirs["kernel"], theirs["depthwise"], theirs["norm"]], "lr": 0.01},
        {"params": [theirs["rows"]], "lr": 0.02},
    ]
    reference = torch.optim.Adam(groups, betas=BETAS, fused=True)
    take_steps(ours, make_optimizer(ours, "adam"), range(3))
    take_steps(theirs, reference, range(3))  # type: ignore[arg-type]
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("kind", ["adam", "sgd", "muon"])
def test_where_a_gradient_lies_in_memory_is_no_matter(kind: str) -> None:
    """Convolutions of channels-last maps give kernels gradients that lie channels-last; torch's fused Adam walks memory, not elements."""
    plain, odd = make_params(), make_params()
    optimizers = make_optimizer(plain, kind), make_optimizer(odd, kind)
    for step in range(3):
        for params, optimizer in zip((plain, odd), optimizers, strict=True):
            g = torch.Generator().manual_seed(100 + step)
            for p in params.values():
                p.grad = torch.randn(p.shape, generator=g)
            if params is odd:
                kernel, rows = params["kernel"].grad, params["rows"].grad
                assert kernel is not None and rows is not None
                params["kernel"].grad = kernel.contiguous(memory_format=torch.channels_last_3d)
                params["rows"].grad = rows.T.contiguous().T
            optimizer.step()
    assert all(torch.equal(plain[n], odd[n]) for n in plain)


@pytest.mark.parametrize("kind", ["adam", "muon"])
@pytest.mark.parametrize("derived", [True, False])
def test_networks_step_by_their_gradients_however_these_lie_in_memory(kind: str, derived: bool) -> None:
    """Kernels of channels-last maps have such gradients, and the factors of merged candidates on any maps."""
    torch.manual_seed(0)
    space = UNetSupernetSettings(base_width=8, max_width=16, levels=2, nodes=(1, 1), coarse_from=2)
    images, labels = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 2, (2, 16, 16, 16))
    net = SegmentationNet(get_space(space).build(None))
    net.start_task(1, 1)
    if derived:
        net = net.with_body(derive(net.body, genotype(net.body)))
    logits = net(Runtime().place(images), torch.zeros(2, 3, 16, 16, 16), ((2, 2, 2),))
    used = list(net.weights().values())
    found = torch.autograd.grad(F.cross_entropy(logits, labels), used, allow_unused=True)
    pairs = [(p, g) for p, g in zip(used, found, strict=True) if g is not None]
    assert any(_lies_otherwise(g, p) for p, g in pairs)
    moved = []
    for form in (torch.Tensor.clone, torch.Tensor.contiguous):
        params = [nn.Parameter(p.detach().clone()) for p, _ in pairs]
        for p, (_, g) in zip(params, pairs, strict=True):
            p.grad = form(g)
        Optimizer([Group(params, 1e-3, 1e-2)], kind, BETAS).step()
        moved.append(params)
    assert all(torch.equal(odd, plain) for odd, plain in zip(*moved, strict=True))


@pytest.mark.parametrize("name", ["kernel", "depthwise"])
def test_a_first_muon_step_keeps_the_gradients_directions_and_evens_out_their_sizes(name: str) -> None:
    params = make_params()
    before = {n: p.detach().clone() for n, p in params.items()}
    optimizer = make_optimizer(params, "muon")
    take_steps(params, optimizer, range(1))
    grad = params[name].grad
    assert grad is not None
    u, s, v = torch.linalg.svd(grad.flatten(1), full_matrices=False)
    assert s.max() / s.min() > 1.5  # or there would be nothing to even out
    rows, columns = grad.flatten(1).shape
    unit = 0.05 * 0.2 * max(rows, columns) ** 0.5  # of a step whose singular values are all one
    step = u.T @ ((before[name] - params[name].detach()).flatten(1) / unit) @ v.T
    sizes = step.diagonal()
    assert 0.5 < sizes.min() and sizes.max() < 1.4  # the iteration's own bounds
    assert (step - torch.diag(sizes)).abs().max() < 0.06  # it runs in bf16
    # a root mean square of a fifth of the rate, up to the sizes' spread
    moved = (before[name] - params[name].detach()).square().mean().sqrt()
    assert float(moved) == pytest.approx(0.05 * 0.2, rel=0.3)


def test_what_is_no_kernel_of_the_body_has_adam_under_muon() -> None:
    ours, theirs = make_params(), make_params()
    take_steps(ours, make_optimizer(ours, "muon"), range(3))
    take_steps(theirs, make_optimizer(theirs, "adam"), range(3))
    assert torch.equal(ours["norm"], theirs["norm"]) and torch.equal(ours["rows"], theirs["rows"])
    assert not torch.equal(ours["kernel"], theirs["kernel"])


@pytest.mark.parametrize("kind", ["adam", "sgd", "muon"])
def test_moments_that_are_taken_along_give_the_same_bits(kind: str) -> None:
    through, resumed = make_params(), make_params()
    take_steps(through, make_optimizer(through, kind), range(5))
    first = make_optimizer(resumed, kind)
    take_steps(resumed, first, range(2))
    kept: dict[str, dict[str, Tensor]] = {n: first.state(p) for n, p in resumed.items()}
    second = make_optimizer(resumed, kind)
    for n, p in resumed.items():
        assert second.state(p) == {}
        second.restore(p, kept[n])
    copies = {n: {k: v.clone() for k, v in state.items() if v is not None} for n, state in kept.items()}
    take_steps(resumed, second, range(2, 5))
    assert all(torch.equal(through[n], resumed[n]) for n in through)
    assert all(torch.equal(kept[n][k], v) for n, state in copies.items() for k, v in state.items())  # not stepped on


@pytest.mark.parametrize(("before", "after"), [("adam", "muon"), ("muon", "adam")])
def test_moments_of_another_kind_of_optimizer_are_let_go(before: str, after: str) -> None:
    old, new = make_params(), make_params()
    first = make_optimizer(old, before)
    take_steps(old, first, range(2))
    second, clean = make_optimizer(new, after), make_params()
    for n, p in new.items():
        second.restore(p, first.state(old[n]))
    assert second.state(new["kernel"]) == {} and second.state(new["norm"]) != {}
    take_steps(new, second, range(1))
    take_steps(clean, make_optimizer(clean, after), range(1))
    assert torch.equal(new["kernel"], clean["kernel"])
    assert set(second.state(new["kernel"])) == set(make_and_step(after))


def make_and_step(kind: str) -> dict[str, Tensor]:
    params = make_params()
    optimizer = make_optimizer(params, kind)
    take_steps(params, optimizer, range(1))
    return optimizer.state(params["kernel"])


@pytest.mark.parametrize("kind", ["adam", "sgd", "muon"])
def test_what_has_no_gradient_stays_and_rates_scale(kind: str) -> None:
    params = make_params()
    before = {n: p.detach().clone() for n, p in params.items()}
    optimizer = make_optimizer(params, kind)
    params["norm"].grad, params["kernel"].grad = torch.ones(6), torch.ones(6, 4, 3, 3, 1)
    optimizer.scale_rates(0.0)
    optimizer.step()
    assert all(torch.equal(params[n], before[n]) for n in params)
    optimizer.scale_rates(1.0)
    optimizer.step()
    moved = {n for n in params if not torch.equal(params[n], before[n])}
    assert moved == {"norm", "kernel"}
    optimizer.zero_grad()
    assert all(p.grad is None for p in params.values())


def test_kernels_keep_their_norms_and_turn_as_free_ones_do() -> None:
    free, kept, start = make_params(), make_params(), make_params()
    take_steps(free, make_optimizer(free, "muon"), range(1))
    take_steps(kept, make_optimizer(kept, "muon", keep_norms=True), range(1))
    for name in ("kernel", "depthwise"):
        norm = start[name].norm()
        assert abs((free[name].norm() / norm).item() - 1) > 1e-4
        torch.testing.assert_close(kept[name], free[name] * norm / free[name].norm(), rtol=1e-5, atol=1e-6)
    assert torch.equal(kept["norm"], free["norm"]) and torch.equal(kept["rows"], free["rows"])
    optimizer = make_optimizer(kept, "muon", keep_norms=True)
    take_steps(kept, optimizer, range(1, 40))
    for name in ("kernel", "depthwise"):
        assert kept[name].norm().item() == pytest.approx(start[name].norm().item(), rel=1e-4)
    before, kept["kernel"].grad = kept["kernel"].detach().clone(), None
    optimizer.step()  # one without a gradient is not touched, not even by rounding
    assert torch.equal(kept["kernel"], before)


def test_many_kernels_step_as_torchs_muon_steps_each() -> None:
    """Wide, tall, square and lone shapes; several steps, with decay, and one kernel that has no gradient."""
    g = torch.Generator().manual_seed(0)
    shapes = [(6, 36), (36, 6), (6, 36), (8, 8), (8, 27), (27, 8), (1, 27), (5, 1), (6, 36)]
    ours, theirs = ([nn.Parameter(t.clone()) for t in made] for made in [[torch.randn(s, generator=g) for s in shapes]] * 2)
    mine = ManyMuon([{"params": ours, "lr": 0.05}], weight_decay=0.1, momentum=0.9)
    reference = torch.optim.Muon([{"params": theirs, "lr": 0.05}], weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        before = [p.detach().clone() for p in theirs]
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = b.grad = None if number == 8 else torch.randn(a.shape, generator=g)
        mine.step()
        reference.step()
        for number, (a, b, old) in enumerate(zip(ours, theirs, before, strict=True)):
            if number == 8:
                assert torch.equal(a, old) and torch.equal(b, old)
            else:
                assert ((a - b).norm() / (b - old).norm()).item() < 0.03 * (step + 1), (number, step)  # both iterate in bf16
                torch.testing.assert_close(mine.state[a]["momentum_buffer"], reference.state[b]["momentum_buffer"])
