"""The task learner: what drives alpha, which scans it sees, annealing, the switch to the discrete network, no leaks."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med.errors import ConfigError
from metanas_med.learner import (
    DartsLearner,
    LearnerReport,
    LearnerSettings,
    NonFiniteLossError,
    Runtime,
    build_learner,
    list_learners,
)
from metanas_med.learner.darts import _weight_optimizer
from metanas_med.learner.losses import segmentation_loss
from metanas_med.learner.support import split_scans, support_dice
from metanas_med.space import expected_multiply_adds, one_hot_alphas
from metanas_med.space import genotype as genotype_of
from metanas_med.space.network import SegmentationNet

from .toy import SHAPE, STRIDES, ToyBatch, ToySupport, make_net, rng, settings, soft, tau_of

CPU = Runtime()
LOSS = segmentation_loss("dice_ce")


def loss_of(net: SegmentationNet, batch: Any) -> Tensor:
    return LOSS(net(CPU.place(batch.images), batch.coords, STRIDES), batch.labels)


def state_of(net: SegmentationNet) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters()}


def equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class Spy(DartsLearner):
    """A learner that notes what its steps see."""

    def __init__(self, given: LearnerSettings) -> None:
        super().__init__(given)
        self.events: list[tuple[str, int, tuple[int, ...]]] = []  #: (weights or alphas, network, scans)
        self.taus: list[float] = []
        self.alpha_grads: list[tuple[list[Tensor], list[Tensor]]] = []  #: (used, exact at the present networks)
        self.before: list[dict[str, Tensor]] = []
        self.switched: list[int] = []
        self.pairs: list[tuple[SegmentationNet, SegmentationNet]] = []
        self._in_alpha = False

    def _alpha_step(self, copies, batches, alphas, optimizer, *rest):
        twins = [copy.deepcopy(model) for model in copies]
        self.before.append(state_of(copies[0]))
        exact = [torch.autograd.grad(loss_of(t, b), list(t.alphas().values())) for t, b in zip(twins, batches, strict=False)]
        self._in_alpha = True
        super()._alpha_step(copies, batches, alphas, optimizer, *rest)
        self._in_alpha = False
        used = [a.grad.clone() for a in alphas]
        self.alpha_grads.append((used, [torch.stack(g).mean(0) for g in zip(*exact, strict=True)]))

    def _weight_step(self, net, batch, *rest):
        self.events.append(("weights", id(net), batch.scans))
        self.taus.append(tau_of(net))
        return super()._weight_step(net, batch, *rest)

    def _loss(self, net, batch, *rest):
        if self._in_alpha:
            self.events.append(("alphas", id(net), batch.scans))
        return super()._loss(net, batch, *rest)

    def _discrete(self, net, genotype, report):
        self.switched.append(len(report.losses))
        found = super()._discrete(net, genotype, report)
        soft = copy.deepcopy(net)
        one_hot_alphas(soft.body, genotype)
        self.pairs.append((soft, copy.deepcopy(found)))
        return found


def run(given: LearnerSettings, support: ToySupport, net: SegmentationNet | None = None, seed: int = 0) -> tuple[Spy, Any]:
    spy = Spy(given)
    dtype = support.dtype
    return spy, spy.run(net if net is not None else make_net(dtype=dtype), support.task(), rng(seed), CPU)


@pytest.mark.parametrize("num_scans", [2, 4])
def test_alpha_gradient_is_taken_at_the_current_networks(num_scans: int) -> None:
    support = ToySupport(num_scans, dtype=torch.float64)
    spy, _ = run(settings(steps=6, discretize=False, lr=0.02), support, make_net(dtype=torch.float64, spread=0.1))
    assert len(spy.alpha_grads) == 6
    for used, exact in spy.alpha_grads:
        for u, e in zip(used, exact, strict=True):
            torch.testing.assert_close(u, e, rtol=1e-8, atol=1e-12)
    # the weights had moved in between, and the gradient with them
    assert not torch.equal(spy.before[0]["stem.kernel"], spy.before[5]["stem.kernel"])


def test_alpha_gradient_against_finite_differences_and_other_weights() -> None:
    support, learner = ToySupport(2, dtype=torch.float64), DartsLearner(settings())
    task, batch = support.task(), support.views(0)
    grads = []
    for shift in (0.0, 0.05):
        net = make_net(dtype=torch.float64, spread=0.2)
        net.start_task(1, 1)
        net.double()
        with torch.no_grad():
            for p in net.weights().values():
                p.add_(shift * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double())
        alphas = list(net.alphas().values())
        fixed = torch.optim.SGD(alphas, lr=0.0)
        learner._alpha_step([net], [batch, support.views(1)], alphas, fixed, task, 1.0, CPU, LearnerReport())
        found = [a.grad.clone() for a in alphas if a.grad is not None]
        g = torch.Generator().manual_seed(2)
        direction = [torch.randn(a.shape, generator=g, dtype=a.dtype) for a in alphas]
        ends = []
        for sign in (1, -1):
            twin = copy.deepcopy(net)
            with torch.no_grad():
                for a, d in zip(twin.alphas().values(), direction, strict=True):
                    a.add_(d, alpha=sign * 1e-5)
                ends.append(float(loss_of(twin, batch)))
        slope = sum(float((f * d).sum()) for f, d in zip(found, direction, strict=True))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-9)
        grads.append(torch.cat(found))
    assert float((grads[0] - grads[1]).norm()) > 0.05 * float(grads[0].norm())


def test_halves_are_disjoint_and_cross_fitted() -> None:
    spy, adapted = run(settings(steps=4, discretize=False), ToySupport(5))
    assert adapted.report.alpha_split == "two halves, cross-fitted"
    seen: dict[str, dict[int, set[int]]] = {"weights": {}, "alphas": {}}
    for kind, net, scans in spy.events:
        seen[kind].setdefault(net, set()).update(scans)
    assert len(seen["weights"]) == 2 and seen["weights"].keys() == seen["alphas"].keys()
    for net, scans in seen["weights"].items():
        assert not scans & seen["alphas"][net]
    first, second = seen["weights"].values()
    assert not first & second and first | second == set(range(5))


def test_single_split_keeps_alpha_and_weights_apart() -> None:
    spy, adapted = run(settings(steps=4, discretize=False, cross_fit=False), ToySupport(4))
    assert adapted.report.alpha_split == "single split, 2 of 4 scans judge alphas"
    seen = {kind: {s for k, _, scans in spy.events if k == kind for s in scans} for kind in ("weights", "alphas")}
    assert not seen["weights"] & seen["alphas"] and len({net for _, net, _ in spy.events}) == 1


@pytest.mark.parametrize("num_scans", [2, 5])
def test_single_level_alphas_step_with_the_weights_from_one_gradient(num_scans: int) -> None:
    """A step moves the weights as one with alpha kept does, and alphas by Adam along the same batch's gradient; it costs no more."""
    support, common = (
        ToySupport(num_scans, dtype=torch.float64),
        {"steps": 1, "discretize": False, "alpha_decay": 0.0, "tau_end": 1.0},
    )
    start = make_net(dtype=torch.float64, spread=0.2)
    kept, frozen = run(settings(alpha="frozen", **common), support, copy.deepcopy(start))
    batches: list[tuple[SegmentationNet, Any]] = []

    class Noted(Spy):
        def _weight_step(self, net, batch, *rest):
            batches.append((copy.deepcopy(net), batch))
            return super()._weight_step(net, batch, *rest)

    learner = Noted(settings(bilevel=False, alpha_lr=0.05, **common))
    adapted = learner.run(copy.deepcopy(start), support.task(), rng(0), CPU)
    report = adapted.report
    assert report.gradient_evaluations == frozen.report.gradient_evaluations == 1 and len(report.alpha_losses) == 1
    assert report.alpha_split == "none: alphas step with the weights" and report.losses == frozen.report.losses
    for name, value in frozen.net.weights().items():
        assert torch.equal(value, adapted.net.weights()[name]), name
    ((before, batch),) = batches
    assert set(batch.scans) == set(kept.events[0][2])
    rows = before.alphas()
    for (name, old), g in zip(rows.items(), torch.autograd.grad(loss_of(before, batch), list(rows.values())), strict=True):
        step = 0.05 * g / (g.abs() + 1e-8)  # the first of Adam, in closed form
        torch.testing.assert_close(adapted.net.alphas()[name], old.detach() - step, rtol=0, atol=1e-9)


def test_single_level_alphas_see_every_candidate_and_weights_every_scan() -> None:
    given = settings(steps=10, bilevel=False, alpha_every=2, prune=0.9, batch=5)
    spy, adapted = run(given, ToySupport(5), net := make_net(spread=0.3))
    assert {s for kind, _, scans in spy.events[:5] for s in scans if kind == "weights"} == set(range(5))
    assert not [kind for kind, *_ in spy.events if kind == "alphas"] and spy.switched == [5]
    assert len(adapted.report.alpha_losses) == 3 and adapted.report.gradient_evaluations == 10
    # under such a threshold only the first of a row would run; Adam's first steps move all that has a gradient
    start = make_net(spread=0.3).alphas()
    moved = torch.cat([(a - start[n]).abs().flatten() for n, a in net.alphas().items() if a.numel() > 1])
    assert float((moved > 1e-3).double().mean()) > 0.9


@pytest.mark.parametrize("num_scans", [1, 2, 3])
def test_few_scans_share_and_the_report_says_so(num_scans: int) -> None:
    _, adapted = run(settings(), ToySupport(num_scans))
    assert adapted.report.alpha_split == "same scans, other patches and augmentations"
    assert split_scans(num_scans, settings(), rng()).train == (tuple(range(num_scans)),)


def test_after_the_switch_every_scan_trains() -> None:
    spy, adapted = run(settings(steps=10, alpha_phase=0.2, batch=4), ToySupport(4))
    late = {s for _, _, scans in spy.events[-8:] for s in scans}
    assert late == {0, 1, 2, 3} and not adapted.net.alphas()


def test_tau_falls_and_the_genotype_is_read_off_at_the_switch() -> None:
    spy, adapted = run(settings(steps=9, alpha_phase=0.5, tau_start=2.0, tau_end=0.25), ToySupport(2))
    assert spy.switched == [5]  # ceil(0.5 * 9)
    expected = [2.0 + (0.25 - 2.0) * i / 4 for i in range(5)]
    assert spy.taus[:5] == pytest.approx(expected)
    report = adapted.report
    assert len(report.losses) == 9 and len(report.alpha_losses) == 5 and report.gradient_evaluations == 14
    assert report.genotype is not None and genotype_of(adapted.net.body) == report.genotype
    assert 0 < report.top_probability_min <= report.top_probability_mean <= 1
    assert report.gap_at_switch == pytest.approx(report.dice_soft_at_switch - report.dice_discrete_at_switch)
    assert report.gap_at_end is not None
    json.dumps(report.to_json(), allow_nan=False)
    for steps in (1, 2, 4):
        kept, _ = run(settings(steps=steps, discretize=False, tau_end=0.5), ToySupport(2))
        assert kept.switched == [] and kept.taus[-1] == 0.5


@pytest.mark.parametrize(("limit", "switch"), [(3, 3), (0, 6), (40, 6)])
def test_the_alpha_phase_of_a_long_run_is_limited(limit: int, switch: int) -> None:
    spy, adapted = run(settings(steps=12, alpha_phase=0.5, alpha_steps=limit, tau_start=2.0, tau_end=0.25), ToySupport(2))
    assert spy.switched == [switch] and len(adapted.report.alpha_losses) == switch and len(adapted.report.losses) == 12
    assert spy.taus[switch - 1] == pytest.approx(0.25)  # it ends annealed, however short


@pytest.mark.parametrize("num_scans", [2, 4])
def test_the_discrete_network_keeps_the_weights(num_scans: int) -> None:
    spy, _ = run(settings(steps=6), ToySupport(num_scans), make_net(spread=0.5))
    ((soft, discrete),) = spy.pairs
    batch = ToySupport(num_scans).views(0)
    with torch.no_grad():
        one, other = (net(CPU.place(batch.images), batch.coords, STRIDES) for net in (soft, discrete))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_given_network_ends_with_all_that_was_learned() -> None:
    """Reptile reads weights and alphas off the network that was given, also when the result is discrete."""
    for given in (settings(steps=6), settings(alpha="frozen"), settings(steps=3, alpha_phase=1.0)):
        net = make_net()
        before = state_of(net)
        _, adapted = run(given, ToySupport(2), net)
        after, discrete = state_of(net), state_of(adapted.net)
        assert adapted.net is not net and not adapted.net.alphas()
        for name, value in discrete.items():
            assert torch.equal(after[name], value), name
        moved = [n for n in net.alphas() if not torch.equal(before[n], after[n])]
        assert bool(moved) == (given.alpha == "adapt")


def test_alpha_moves_noticeably_in_ten_steps() -> None:
    net = make_net()
    run(settings(steps=10, discretize=False, alpha_lr=0.05), ToySupport(2), net)
    moves = torch.cat([a.detach() for a in net.alphas().values()]).abs()
    assert float(moves.max()) > 0.3 and float(moves.median()) > 0.05
    net.body.relax(soft(0.1))
    assert max(float(p.detach().max()) for p in net.body.probabilities().values() if p.numel() > 4) > 0.5


def test_frozen_alpha_stays_to_the_bit_and_random_differs() -> None:
    net = make_net(spread=0.3)
    start, chosen = state_of(net), genotype_of(net.body)
    _, frozen = run(settings(alpha="frozen"), ToySupport(2), net)
    assert all(torch.equal(start[n], a) for n, a in net.alphas().items())
    assert frozen.report.genotype == chosen and not frozen.report.alpha_losses
    _, soft = run(settings(alpha="frozen", discretize=False), ToySupport(2), net := make_net(spread=0.3))
    assert soft.net is net and soft.report.genotype is None and all(torch.equal(start[n], a) for n, a in net.alphas().items())
    drawn = [
        run(settings(alpha="random", steps=0), ToySupport(2), make_net(spread=0.3), seed)[1].report.genotype for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] and drawn[0] != chosen and drawn[1] != drawn[2]


def test_weights_of_every_candidate_train_while_the_network_is_soft() -> None:
    net = make_net()
    before = state_of(net)
    run(settings(alpha="frozen", discretize=False, lr=0.01), ToySupport(2), net)
    assert not [n for n in net.weights() if n in before and torch.equal(before[n], net.get_parameter(n))]


def test_no_state_leaks_from_task_to_task() -> None:
    learner, start = DartsLearner(settings(steps=4)), make_net()
    a, b = ToySupport(4, seed=1), ToySupport(3, num_channels=2, num_organs=2, seed=2)

    def reload(net: SegmentationNet) -> None:
        with torch.no_grad():
            own = {**net.weights(), **net.alphas()}
            for name, value in {**start.weights(), **start.alphas()}.items():
                own[name].copy_(value)

    both, alone = make_net(), make_net()
    learner.run(both, a.task(), rng(5), CPU)
    reload(both)
    first = learner.run(both, b.task(), rng(6), CPU)
    second = DartsLearner(settings(steps=4)).run(alone, b.task(), rng(6), CPU)
    assert equal_states(state_of(first.net), state_of(second.net)) and first.report.losses == second.report.losses
    assert equal_states(state_of(both), state_of(alone))


@pytest.mark.parametrize("head", ["closed_form", "meta_row"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_raises(head: str, value: float) -> None:
    class Broken(ToySupport):
        def scan(self, number: int) -> tuple[Tensor, Tensor]:
            image, labels = super().scan(number)
            image[0, 3, 3, 3] = value
            return image, labels

    with pytest.raises(NonFiniteLossError):
        run(settings(head=head), Broken(2))


@pytest.mark.parametrize("alpha", ["frozen", "adapt"])
def test_a_gradient_that_is_not_finite_raises_before_the_step(alpha: str) -> None:
    """After the last step no loss would tell, and the state would be averaged into the meta-learned one."""
    learner, net = DartsLearner(settings(steps=1, alpha=alpha, discretize=False)), make_net()
    before = {n: p.clone() for n, p in net.weights().items()} | {n: p.clone() for n, p in net.alphas().items()}
    learner.loss = lambda logits, labels: LOSS(logits, labels) + (logits - logits.detach()).square().sum().sqrt()
    with pytest.raises(NonFiniteLossError, match="gradient"):
        learner.run(net, ToySupport(2).task(), rng(), CPU)
    assert equal_states(before, {**net.weights(), **net.alphas()})


def test_alphas_that_no_loss_speaks_of_stay() -> None:
    """Adam would make whole steps of the decay alone, and undo within ten of them what was meta-learned."""
    learner, net = DartsLearner(settings(steps=10, discretize=False, alpha_lr=0.05)), make_net(spread=0.5)
    before = {n: p.clone() for n, p in net.alphas().items()}
    learner.loss = lambda logits, labels: (logits * 0).sum()
    learner.run(net, ToySupport(2).task(), rng(), CPU)
    for name, row in net.alphas().items():
        torch.testing.assert_close(row, before[name], rtol=1e-3, atol=0)


def test_pruned_candidates_are_judged_though_they_are_not_trained() -> None:
    seen: set[tuple[bool, float]] = set()

    class Watch(Spy):
        def _loss(self, net, batch, *rest):
            seen.add((self._in_alpha, net.body.relaxed.prune))
            return super()._loss(net, batch, *rest)

    Watch(settings(steps=4, alpha_phase=1.0, prune=0.05)).run(make_net(), ToySupport(2).task(), rng(), CPU)
    assert seen == {(True, 0.0), (False, 0.05)}


def test_steps_lower_the_loss_and_find_the_organ() -> None:
    support, net = ToySupport(4), make_net()
    _, start = run(settings(steps=0), support, make_net())
    _, adapted = run(settings(steps=40, lr=0.01, head_lr=0.01), support, net)
    losses = adapted.report.losses
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert support_dice(adapted.net, support.task(), CPU) > max(0.8, support_dice(start.net, support.task(), CPU))


def test_step_zero_already_segments_with_the_closed_form() -> None:
    support = ToySupport(3, num_organs=2)
    dice = {}
    for head in ("closed_form", "meta_row"):
        _, adapted = run(settings(steps=0, head=head), support)
        dice[head] = support_dice(adapted.net, support.task(), CPU)
        assert (adapted.report.ridge_strength is None) == (head == "meta_row")
    assert dice["closed_form"] > 0.5 > dice["meta_row"] + 0.2


def test_rows_of_one_scan_are_judged_on_augmented_patches_of_it() -> None:
    class Blank(ToySupport):
        """Patches on which nothing is to be seen: what the scan itself taught does not hold there."""

        def stream(self, requests: Any) -> Any:
            for batch in super().stream(requests):
                yield dataclasses.replace(batch, images=torch.zeros_like(batch.images))

    strengths = {}
    for kind in (ToySupport, Blank):
        support = kind(1)
        _, adapted = run(settings(steps=0), support)
        assert support.requests == [(2, (0,))] * 3
        strengths[kind] = adapted.report.ridge_strength
    assert strengths[Blank] > strengths[ToySupport]
    many = ToySupport(3)
    run(settings(steps=0), many)
    assert many.requests == []  # they judge one another


@pytest.mark.filterwarnings("error")
def test_a_price_on_multiply_adds_makes_the_network_cheaper() -> None:
    costs = []
    for weight in (0.0, 20.0):
        net = make_net()
        run(settings(steps=6, discretize=False, cost_weight=weight, cost_budget=0.1), ToySupport(2), net)
        net.body.relax(soft(0.3))
        with torch.no_grad():
            costs.append(float(expected_multiply_adds(net.body, SHAPE, STRIDES)))
    assert costs[1] < 0.9 * costs[0]


def test_the_penalty_of_single_level_alphas_leaves_weights_as_they_are() -> None:
    nets, losses = [], []
    for weight in (0.0, 20.0):
        common = {"steps": 1, "discretize": False, "bilevel": False, "cost_budget": 0.1}
        _, adapted = run(settings(cost_weight=weight, **common), ToySupport(2), net := make_net())
        nets.append(net)
        losses.append(adapted.report.losses[0])
    one, other = nets
    assert losses[0] == losses[1]  # the loss that is reported is that of the labels
    assert all(torch.equal(value, other.weights()[name]) for name, value in one.weights().items())
    assert any(not torch.equal(value, other.alphas()[name]) for name, value in one.alphas().items())
    for net in nets:
        net.body.relax(soft(0.3))
    costs = [float(expected_multiply_adds(net.body, SHAPE, STRIDES).detach()) for net in nets]
    assert costs[1] < costs[0]


@pytest.mark.parametrize(
    ("alpha", "average", "averaged"), [("frozen", 0.5, 5), ("frozen", 0.1, 1), ("adapt", 0.8, 4), ("frozen", 0.0, 1)]
)
def test_the_result_is_the_mean_of_the_last_weights(alpha: str, average: float, averaged: int) -> None:
    """Of ten steps, six of them a search's: its mean has none of before the switch."""
    common = {"steps": 10, "alpha": alpha, "alpha_phase": 0.6, "optimizer": "muon", "kernel_lr": 0.05, "bilevel": False}
    seen: list[dict[str, Tensor]] = []

    class Noted(Spy):
        def _weight_step(self, net, *rest):
            value = super()._weight_step(net, *rest)
            seen.append(state_of(net))
            return value

    support = ToySupport(2, dtype=torch.float64)
    given = make_net(dtype=torch.float64, spread=0.3)
    adapted = Noted(settings(average=average, **common)).run(given, support.task(), rng(0), CPU)
    found = state_of(adapted.net)
    assert set(found) == set(seen[-1])
    for name, value in found.items():
        exact = 1e-12 if value.dtype == torch.float64 else 1e-6  # what is born with a task is float32
        torch.testing.assert_close(value, torch.stack([s[name] for s in seen[-averaged:]]).mean(0), rtol=0, atol=exact)
    assert (averaged > 1) == any(not torch.equal(value, seen[-1][name]) for name, value in found.items())
    body = dict(given.body.named_parameters())
    assert all(torch.equal(body[n.removeprefix("body.")], v) for n, v in found.items() if n.startswith("body."))


def test_second_order_is_the_gradient_through_one_weight_step() -> None:
    support = ToySupport(2, dtype=torch.float64)
    first, _ = run(settings(steps=2, discretize=False, lr=0.05), support, make_net(dtype=torch.float64, spread=0.2))
    net = make_net(dtype=torch.float64, spread=0.2)
    spy, adapted = run(settings(steps=2, discretize=False, lr=0.05, second_order=True), support, net)
    assert adapted.report.gradient_evaluations == 2 * (4 + 1)
    used, exact_first = spy.alpha_grads[0]
    for u, e in zip(first.alpha_grads[0][1], exact_first, strict=True):
        torch.testing.assert_close(u, e)
    difference = torch.cat(used) - torch.cat(list(exact_first))
    assert 1e-4 < float(difference.norm() / torch.cat(list(exact_first)).norm()) < 10


def test_shallower_networks_and_plain_ones_adapt() -> None:
    net = make_net()
    with torch.no_grad():
        net.alphas()["body.alphas.depth"][0] = 5.0  # two levels of three
    _, adapted = run(settings(alpha="frozen"), ToySupport(2), net)
    assert adapted.report.genotype is not None and adapted.report.genotype["picks"]["depth"] == "2"
    assert adapted.report.ridge_strength is not None
    _, plain = run(settings(), ToySupport(5), net := make_net("unet"))
    assert plain.net is net and plain.report.genotype is None and plain.report.alpha_split == "none"


def test_the_step_hook_and_the_door() -> None:
    seen: list[tuple[int, float]] = []
    report = DartsLearner(settings()).run(make_net(), ToySupport(4).task(), rng(), CPU, lambda i, v: seen.append((i, v))).report
    assert [i for i, _ in seen] == [0, 1, 2, 3] and [v for _, v in seen] == report.losses
    assert "darts" in list_learners() and isinstance(build_learner(settings()), DartsLearner)
    with pytest.raises(ConfigError, match="did you mean 'darts'"):
        build_learner(settings(name="dart"))


def test_batches_are_asked_for_by_half() -> None:
    support = ToySupport(4)
    DartsLearner(settings(steps=4)).run(make_net(), support.task(), rng(), CPU)
    halves = {scans for _, scans in support.requests[:4]}
    assert len(halves) == 2 and set().union(*halves) == {0, 1, 2, 3}
    assert [scans for _, scans in support.requests[4:]] == [(0, 1, 2, 3)] * 2
    assert isinstance(support.views(0), ToyBatch)


def test_muon_steps_the_kernels_of_stem_and_body_and_nothing_of_the_head_or_task() -> None:
    moved = {}
    for kind, rates in (("muon", {"kernel_lr": 0.5}), ("adam", {})):
        net = make_net()
        s = settings(optimizer=kind, lr=1e-12, head_lr=1e-3, **rates)
        before, optimizer = state_of(net), _weight_optimizer(net, s)
        g = torch.Generator().manual_seed(1)
        for p in optimizer.params:
            p.grad = torch.randn(p.shape, generator=g)
        optimizer.step()
        moved[kind] = {n: float((p.detach() - before[n]).abs().max()) for n, p in net.named_parameters()}
    for name, p in make_net().named_parameters():
        body = not name.startswith(("head.", "task.", "body.alphas."))
        if body and p.ndim > 1:
            assert moved["muon"][name] > 0.01 and moved["adam"][name] < 1e-9, name
        else:
            assert moved["muon"][name] == moved["adam"][name] < 2e-3, name


def test_second_order_is_computed_in_full_precision_where_steps_are_not() -> None:
    support = ToySupport(2)
    found = []
    for bfloat16 in (False, True):
        spy = Spy(settings(steps=1, discretize=False, lr=0.05, second_order=True, head="meta_row"))
        spy.run(make_net(spread=0.2), support.task(), rng(), Runtime(bfloat16=bfloat16, channels_last=False))
        found.append(torch.cat(spy.alpha_grads[0][0]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)
