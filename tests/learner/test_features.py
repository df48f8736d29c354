"""Features learned through the closed-form head: exact gradients, disjoint halves, a loss that falls, a state that resumes."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.learner import Context, FeatureLearner, FeatureSettings, NonFiniteLossError
from metanas_med.learner import closed_form as module
from metanas_med.learner.closed_form import closed_form_loss, solved_rows
from metanas_med.learner.diversity import effective_number, log_correlation
from metanas_med.learner.episode import Task
from metanas_med.learner.observe import observe
from metanas_med.learner.runtime import Runtime
from metanas_med.space import get_space
from metanas_med.space.fewshot import FewShotSettings
from metanas_med.space.narrow import narrowed
from metanas_med.space.network import SegmentationNet

from .toy import SHAPE, STRIDES, ToyBatch, ToySupport, context, make_net

RUNTIME = Runtime(channels_last=False)
FAST = FeatureSettings(steps=2, views=2, voxels=80, optimizer="adam", alpha_lr=0.0, diversity=0.0)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, missing: Any = (), /) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels)


def learner(**changes: object) -> FeatureLearner:
    return FeatureLearner(FAST.model_copy(update=changes))


def on(seed: int) -> Context:
    return context(seed, RUNTIME)


def test_solved_rows_minimise_the_balanced_ridge_objective() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(60, 5, generator=g, dtype=torch.float64), torch.ones(60, 1, dtype=torch.float64)], 1)
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    rows = solved_rows(x, labels, 2, 0.1).requires_grad_()
    share = torch.tensor([1 / 40, 1 / 15, 1 / 5], dtype=torch.float64)[labels] / 3
    target = torch.full((60, 3), -1.0, dtype=torch.float64)
    target[torch.arange(60), labels] = 1.0
    objective = (share[:, None] * (x @ rows.T - target).square()).sum() + 0.1 * rows[:, :-1].square().sum()
    (gradient,) = torch.autograd.grad(objective + 1e-6 * rows[:, -1].square().sum(), rows)
    assert float(gradient.abs().max()) < 1e-12


def test_the_gradient_runs_through_the_solution() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(20, 4, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1] * 10)
    assert torch.autograd.gradcheck(lambda features: solved_rows(features, labels, 1, 0.05), x)


def test_the_gradient_of_an_episode_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a central difference; the logits' scale is a constant by design, so it is held still here."""
    fixed = (0.0, torch.tensor(2.0), torch.tensor([0.3, -0.3]))
    monkeypatch.setattr(module, "calibrate_scores", lambda scores, labels, weights: fixed)
    support = ToySupport(dtype=torch.float64)
    net, task = make_net(dtype=torch.float64, spread=0.5), support.task()
    net.start_task(1, 1)
    net.double()
    halves = (support.pack([0], 0.0, None), support.pack([1], 0.0, None))

    def loss() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        seen = observe(net, task, halves, FAST.voxels, generator, RUNTIME)
        return closed_form_loss(net, seen, cross_entropy, FAST.strength)[0]

    weights = {n: p for n, p in net.weights().items() if not n.startswith("head.")}
    grads = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
    g = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in weights.values()]
    expected = sum(float((a * d).sum()) for a, d in zip(grads, direction, strict=True) if a is not None)
    step, values = 1e-7, []  # small: leaky ReLUs have kinks
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(weights.values(), direction, strict=True):
                p.add_(sign * step * d)
        values.append(float(loss().detach()))
        with torch.no_grad():
            for p, d in zip(weights.values(), direction, strict=True):
                p.sub_(sign * step * d)
    assert abs(expected) > 1e-3
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scans", [2, 5])
def test_rows_are_judged_on_scans_that_they_were_not_solved_on(scans: int) -> None:
    support = ToySupport(num_scans=scans)
    learner(steps=3).run(make_net(), support.task(), on(0))
    assert len(support.requests) == 6
    for (_, first), (_, second) in zip(support.requests[::2], support.requests[1::2], strict=True):
        assert first and second and not set(first) & set(second)
        assert set(first) | set(second) == set(range(scans))


def test_a_half_is_judged_by_the_rows_of_the_other() -> None:
    """Halves that contradict each other have a high loss; rows that are judged where they were solved fit either well."""
    net, support = make_net(), ToySupport()
    net.start_task(1, 1)
    first, second = (support.pack([scan], 0.0, None) for scan in (0, 1))
    inverted = dataclasses.replace(second, labels=1 - second.labels)

    def loss(*halves: ToyBatch) -> float:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            seen = observe(net, support.task(), halves, FAST.voxels, generator, RUNTIME)
            return float(closed_form_loss(net, seen, learner().loss, FAST.strength)[0])

    itself = [loss(half, half) for half in (first, inverted)]
    assert loss(first, inverted) > sum(itself) / 2 + 0.3


def test_one_scan_serves_on_both_sides() -> None:
    support = ToySupport(num_scans=1)
    learner().run(make_net(), support.task(), on(0))
    assert {numbers for _, numbers in support.requests} == {(0,)}


def test_the_loss_of_new_tasks_falls() -> None:
    net, features = make_net(), learner(lr=5e-3)

    def judged() -> float:
        values = []
        for seed in range(100, 106):
            support = ToySupport(seed=seed)
            net.start_task(1, 1)
            halves = (support.pack([0], 0.0, None), support.pack([1], 0.0, None))
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                seen = observe(net, support.task(), halves, FAST.voxels, generator, RUNTIME)
                loss, _ = closed_form_loss(net, seen, features.loss, FAST.strength)
            values.append(float(loss))
        return float(np.mean(values))

    before, rows = judged(), net.head.organ.detach().clone()
    for seed in range(25):
        features.run(net, ToySupport(seed=seed).task(), on(seed))
    assert judged() < 0.8 * before
    assert not torch.equal(net.head.organ, rows)  # the meta-learned rows follow the solved ones


def test_alphas_and_the_moments_of_untouched_weights_stay() -> None:
    net = make_net(spread=0.5)
    before = {n: a.detach().clone() for n, a in net.alphas().items()}
    features = learner()
    features.run(net, ToySupport().task(), on(0))
    assert all(torch.equal(a, before[n]) for n, a in net.alphas().items())
    assert not any("head." in n or "task." in n or "alphas." in n for n in features.state())


def test_alphas_step_in_turn_with_the_weights() -> None:
    """With alphas every second step: the first step moves weights alone, the second alphas alone."""
    start = make_net(spread=0.5)
    states = []
    for steps in (1, 2):
        net = make_net(spread=0.5)
        features = learner(steps=steps, alpha_lr=0.05, alpha_every=2)
        features.run(net, ToySupport().task(), on(0))
        states.append(net)
    one, two = states
    assert all(torch.equal(a, b) for a, b in zip(start.alphas().values(), one.alphas().values(), strict=True))
    body = [n for n in start.weights() if n.startswith("body.")]
    assert any(not torch.equal(start.weights()[n], one.weights()[n]) for n in body)
    moved = [n for n in start.alphas() if not torch.equal(one.alphas()[n], two.alphas()[n])]
    assert len(moved) > 0.5 * len(start.alphas())
    assert any("alphas." in n for n in features.state())
    # the same stream of patches serves both runs, so that weights differ by the alphas' step alone: not at all
    assert all(torch.equal(one.weights()[n], two.weights()[n]) for n in body)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_its_state_resumes_to_the_bit(optimizer: str) -> None:
    nets = [make_net(), make_net()]
    whole, first = learner(optimizer=optimizer), learner(optimizer=optimizer)
    for features, net in ((whole, nets[0]), (first, nets[1])):
        features.run(net, ToySupport(seed=1).task(), on(1))
    second = learner(optimizer=optimizer)
    second.load({n: t.clone() for n, t in first.state().items()})
    for features, net in ((whole, nets[0]), (second, nets[1])):
        features.run(net, ToySupport(seed=2).task(), on(2), 0.5)
    for (name, a), b in zip(nets[0].weights().items(), nets[1].weights().values(), strict=True):
        assert torch.equal(a, b), name


def test_muon_moves_kernels_along_orthogonal_matrices_and_the_rest_by_adam() -> None:
    net, features = make_net(), learner(optimizer="muon", steps=1, kernel_lr=0.05, lr=1e-3)
    before = {n: w.detach().clone() for n, w in net.weights().items()}
    features.run(net, ToySupport().task(), on(0), 0.5)
    kernels = 0
    for name, value in net.weights().items():
        step = (value.detach() - before[name]).flatten(1) if value.ndim > 1 else value.detach() - before[name]
        if name.startswith("head.") or not step.any():
            continue
        if value.ndim == 1:
            assert float(step.abs().max()) <= 0.5e-3 * (1 + 1e-4), name  # Adam's first step: the rate, against the sign
            continue
        kernels += 1
        # singular values alike, but for those that five iterations of Newton and Schulz do not lift far enough from next to nothing
        singular = torch.linalg.svdvals(step)
        scale = 0.5 * 0.05 * 0.2 * max(step.shape) ** 0.5
        assert 0.6 * scale < float(singular.median()) and float(singular.max()) < 1.3 * scale, name
    assert kernels > 3


def test_kernels_keep_their_norms_from_episode_to_episode() -> None:
    net, features = make_net(), learner(optimizer="muon", steps=2, kernel_lr=0.05)
    before = {n: w.detach().clone() for n, w in net.weights().items() if w.ndim > 1 and not n.startswith("head.")}
    for seed in range(4):
        features.run(net, ToySupport(seed=seed).task(), on(seed))
    moved = 0
    for name, old in before.items():
        new = net.weights()[name].detach()
        assert float(new.norm()) == pytest.approx(float(old.norm()), rel=1e-4), name
        moved += float((new - old).norm() / old.norm()) > 0.2
    assert moved > 3


class LossyLearner:
    """A feature learner whose loss changes after ``sound`` calls."""

    def __init__(self, learner: FeatureLearner, spoil: Any, sound: int) -> None:
        self.calls, original = 0, learner.loss

        def loss(logits: torch.Tensor, labels: torch.Tensor, missing: Any = (), /) -> torch.Tensor:
            self.calls += 1
            value = original(logits, labels, missing)
            return value if self.calls <= sound else spoil(value, logits)

        learner.loss = loss


def test_a_loss_that_is_not_finite_leaves_the_moments() -> None:
    net, features = make_net(), learner()
    features.run(net, ToySupport().task(), on(0))
    before = copy.deepcopy(features.state())
    spoiled = LossyLearner(features, lambda value, logits: value * float("nan"), 2)
    with pytest.raises(NonFiniteLossError):
        features.run(net, ToySupport().task(), on(0))
    assert spoiled.calls > 2 and all(torch.equal(t, before[n]) for n, t in features.state().items())


def test_a_gradient_that_is_not_finite_leaves_weights_and_moments() -> None:
    net, features = make_net(), learner(steps=1)
    features.run(net, ToySupport().task(), on(0))
    moments, weights = copy.deepcopy(features.state()), {n: w.detach().clone() for n, w in net.weights().items()}
    # the root of zero: a finite value, an infinite slope
    LossyLearner(features, lambda value, logits: value + (0 * logits).sum().sqrt(), 0)
    with pytest.raises(NonFiniteLossError, match="gradient"):
        features.run(net, ToySupport().task(), on(0))
    assert all(torch.equal(w, weights[n]) for n, w in net.weights().items())
    assert all(torch.equal(t, moments[n]) for n, t in features.state().items())


def test_alphas_that_would_never_have_a_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="alphas would never move"):
        FeatureSettings(steps=2, alpha_lr=0.02)
    net = make_net(spread=0.5)
    before = {n: a.detach().clone() for n, a in net.alphas().items()}
    learner(steps=2, alpha_lr=0.05, alpha_every=2).run(net, ToySupport().task(), on(0), search=False)
    assert all(torch.equal(a, before[n]) for n, a in net.alphas().items())


def kept_rows(made: FeatureLearner) -> set[str]:
    """Return the tasks that have rows of their own."""
    return {name.removeprefix("value.rows/") for name in made.state() if name.startswith("value.")}


def test_a_recurring_task_finds_its_own_rows() -> None:
    """Joint training: rows are plain parameters of their task, kept between episodes and through a checkpoint."""
    made = learner(head="trained", lr=1e-2)
    net = make_net()
    first, other = (dataclasses.replace(ToySupport(seed=n).task(), key=name) for n, name in enumerate(("a", "b")))
    made.run(net, first, on(0))
    kept = made.state()["value.rows/a"]
    made.run(net, other, on(1))
    assert kept_rows(made) == {"a", "b"}
    assert torch.equal(made.state()["value.rows/a"], kept)  # another task leaves them alone
    again = learner(head="trained", lr=1e-2)
    again.load(made.state())
    nets = [copy.deepcopy(net), copy.deepcopy(net)]
    losses = [one.run(n, first, on(2)) for one, n in zip((made, again), nets, strict=True)]
    assert losses[0] == losses[1]
    assert torch.equal(made.state()["value.rows/a"], again.state()["value.rows/a"])
    assert not torch.equal(made.state()["value.rows/a"], kept)
    # a task that does not come again has no rows of its own
    made.run(net, ToySupport().task(), on(3))
    assert kept_rows(made) == {"a", "b"}


def test_joint_training_is_plain_gradient_descent_on_rows_and_features() -> None:
    """One step against an independent one: Adam's first step moves every entry by the rate, against its gradient's sign."""
    made, net = learner(head="trained", steps=1, lr=1e-3, clip=1e9, solve_new=False), make_net()
    support = ToySupport()
    task = dataclasses.replace(support.task(), key="a")
    twin = copy.deepcopy(net)
    made.run(net, task, on(0))
    seen = support.batches
    twin.start_task(1, 1)
    images, coords, labels = (torch.cat([getattr(b, part) for b in seen]) for part in ("images", "coords", "labels"))
    made.loss(twin(images, coords, task.strides), labels).backward()
    gradient = twin.task["rows"].grad
    assert gradient is not None
    moved = made.state()["value.rows/a"] - twin.head.rows(torch.zeros_like(gradient)).detach()
    clear = gradient.abs() > 1e-4
    assert clear.any()
    torch.testing.assert_close(moved[clear], -made.settings.head_lr * gradient.sign()[clear], rtol=1e-2, atol=1e-6)
    kernel = twin.stem.kernel.grad
    assert kernel is not None
    clear = kernel.abs() > 1e-4
    torch.testing.assert_close((net.stem.kernel - twin.stem.kernel)[clear], -1e-3 * kernel.sign()[clear], rtol=1e-2, atol=1e-6)


def test_a_made_up_task_trains_features_under_fixed_rows() -> None:
    support = ToySupport()
    net, task = make_net(spread=0.5), support.task()
    net.start_task(1, 1)
    halves = (support.pack([0], 0.0, None), support.pack([1], 0.0, None))
    grads = []
    for through in (True, False):
        generator = torch.Generator().manual_seed(3)
        seen = observe(net, task, halves, FAST.voxels, generator, RUNTIME)
        loss, _ = closed_form_loss(net, seen, cross_entropy, FAST.strength, through=through)
        grads.append((float(loss.detach()), torch.autograd.grad(loss, net.stem.kernel)[0]))
    assert grads[0][0] == grads[1][0] and not torch.allclose(grads[0][1], grads[1][1])


def test_correlation_of_features_is_that_of_numpy() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=g, dtype=torch.float64)
    x[:, 1] = 3 * x[:, 0] + 0.1 * x[:, 1]
    expected = np.log(np.square(np.corrcoef(x.numpy().T)).mean())
    assert float(log_correlation(x)) == pytest.approx(expected, rel=1e-12)
    assert float(log_correlation(5 * x - 2)) == pytest.approx(expected, rel=1e-12)
    orthogonal = torch.linalg.qr(torch.randn(50, 6, generator=g, dtype=torch.float64) * torch.ones(6))[0]
    orthogonal = torch.linalg.qr(torch.cat([torch.ones(50, 1, dtype=torch.float64), orthogonal], 1))[0][:, 1:]
    assert float(log_correlation(orthogonal)) == pytest.approx(-np.log(6), rel=1e-9)
    assert float(log_correlation(x[:, :1].expand(-1, 6))) == pytest.approx(0, abs=1e-12)
    assert effective_number(orthogonal) == pytest.approx(6, rel=1e-9)
    assert effective_number(x[:, :1].expand(-1, 6)) == pytest.approx(1, abs=1e-6)
    pairs = torch.cat([orthogonal[:, :3], orthogonal[:, :3]], 1)
    assert effective_number(pairs) == pytest.approx(3, rel=1e-6) and float(log_correlation(pairs)) == pytest.approx(-np.log(3))
    assert torch.autograd.gradcheck(log_correlation, x.clone().requires_grad_())
    with_constant = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    assert bool(log_correlation(with_constant).isfinite())


@pytest.mark.parametrize("head", ["closed_form", "trained"])
def test_the_penalty_keeps_features_apart(head: str) -> None:
    """Features of one task that is repeated become alike; the penalty keeps them apart."""
    found = []
    for diversity in (0.0, 0.5):
        made, net = learner(head=head, steps=30, lr=5e-3, diversity=diversity), make_net()
        task = dataclasses.replace(ToySupport(num_scans=4).task(), key="a")
        made.run(net, task, on(0))
        net.start_task(1, 1)
        batch = ToySupport(num_scans=4).pack([0, 1, 2, 3], 0.0, None)
        seen = observe(net, task, [batch], 200, torch.Generator().manual_seed(0), RUNTIME)
        found.append(float(log_correlation(seen.part(slice(None))[0][:, :-7].detach())))
    assert found[1] < found[0] - 0.2


def test_a_new_task_starts_from_solved_rows() -> None:
    """Its first loss is then lower than under the meta-learned row, which knows nothing yet."""
    first = []
    for start in (True, False):
        made = learner(head="trained", steps=1, solve_new=start)
        first += made.run(make_net(), dataclasses.replace(ToySupport().task(), key="a"), on(0))
    assert first[0] < first[1] - 0.1


@pytest.mark.parametrize("objective", ["head", "contrast"])
def test_parts_of_a_supernet_move_it_by_their_mean_gradient(objective: Any) -> None:
    """One step of three parts, against one step of each: moments after a first step are proportional to the gradient."""
    space = get_space(FewShotSettings(base_width=8, max_width=16, levels=3, encoder_blocks=2))
    rows = space.rows()
    parts = [
        dict.fromkeys(rows, 0),
        {**dict.fromkeys(rows, 0), "levels": 1, "width": 1},
        {**dict.fromkeys(rows, 0), "encoder_blocks": 1},
    ]
    torch.manual_seed(0)
    whole = SegmentationNet(space.build(None))
    settings = {"steps": 1, "voxels": 100_000, "clip": 1e9, "head": "closed_form"}
    changes = settings | ({"contrast": {"voxels": 4096, "width": 4}} if objective == "contrast" else {})
    # every voxel is seen, so that the draws of voxels change nothing but the order of sums
    own = FeatureSettings.model_validate({**FAST.model_dump(), **changes})

    def moments(chosen: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        net, found = copy.deepcopy(whole), FeatureLearner(own)
        support = ToySupport(2, seed=3)
        task = Task(support, 2, 1, 1, STRIDES, SHAPE)
        draw = [lambda net, picks=picks: narrowed(net, picks) for picks in chosen]
        found.run(net, task, on(5), search=False, objective=objective, variants=lambda net, _: [make(net) for make in draw])
        return {name: value for name, value in found.state().items() if name.startswith("exp_avg.") and "projection" not in name}

    alone = [moments([part]) for part in parts]
    together = moments(parts)
    assert set(together) == set().union(*alone)
    for name, value in together.items():
        expected = sum(found[name] if name in found else torch.zeros_like(value) for found in alone) / 3
        torch.testing.assert_close(value, expected, rtol=2e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(alone[0]["exp_avg.body.convs.down0_0.weight"], alone[1]["exp_avg.body.convs.down0_0.weight"])
    assert float(alone[1]["exp_avg.body.convs.down1_0.weight"][8:].abs().sum()) == 0.0
