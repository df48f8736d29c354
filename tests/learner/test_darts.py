"""DARTS: what drives alphas, which scans it sees, annealing, the switch to the discrete network, no leaks."""

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
    LEARNERS,
    DartsLearner,
    LearnerReport,
    NonFiniteLossError,
    Runtime,
    build_learner,
)
from metanas_med.learner.alpha_gradients import ALPHA_GRADIENTS
from metanas_med.learner.discretizers import ArgmaxSettings
from metanas_med.learner.support import support_dice
from metanas_med.learner.weights import WeightSteps
from metanas_med.space import expected_multiply_adds
from metanas_med.space import genotype as genotype_of
from metanas_med.space.network import SegmentationNet

from .toy import CPU, JOINT, SHAPE, SOFT, STRIDES, ToyBatch, ToySupport, context, make_net, rng, settings, soft
from .watch import Watch, loss_of, run, state_of


def equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("num_scans", [2, 4])
def test_the_alpha_gradient_is_taken_at_the_present_networks(num_scans: int) -> None:
    support, net = ToySupport(num_scans, dtype=torch.float64), make_net(dtype=torch.float64, spread=0.1)
    watch, _ = run(settings(steps=3, lr=0.02, **SOFT), support, net)
    copies = 2 if num_scans == 4 else 1
    assert len(watch.taken) == 3 * copies
    for taken in watch.taken:
        for used, exact in zip(taken.used, taken.exact, strict=True):
            torch.testing.assert_close(used, exact, rtol=1e-8, atol=1e-12)
    # the mean over the copies is what alphas stepped along
    last = zip(*(taken.exact for taken in watch.taken[-copies:]), strict=True)
    for row, exact in zip(net.alphas().values(), last, strict=True):
        assert row.grad is not None
        torch.testing.assert_close(row.grad, torch.stack(exact).mean(0), rtol=1e-8, atol=1e-12)
    # the weights had moved in between, and the gradient with them
    assert not torch.equal(watch.taken[0].kernel, watch.taken[-copies].kernel)


def test_the_alpha_gradient_is_the_slope_of_the_judging_loss_and_depends_on_the_weights() -> None:
    grads: list[Tensor] = []

    class Slopes:
        """First order, compared with a difference along a random direction."""

        bilevel, evaluations, exact = True, 1, False

        def __init__(self, part: Any) -> None:
            self.part = part

        def split(self, *given: Any) -> Any:
            return self.part.split(*given)

        def take(self, train: Any, judge: Any, weights: Any, alphas: Any, rate: float) -> Any:
            found, value = self.part.take(train, judge, weights, alphas, rate)
            g = torch.Generator().manual_seed(2)
            direction = [torch.randn(a.shape, generator=g, dtype=a.dtype) for a in alphas]
            before, ends = [a.detach().clone() for a in alphas], []
            with torch.no_grad():
                for sign in (1, -1):
                    for a, b, d in zip(alphas, before, direction, strict=True):
                        a.copy_(b + sign * 1e-7 * d)
                    ends.append(float(judge()))
                for a, b in zip(alphas, before, strict=True):
                    a.copy_(b)
            slope = sum(float((f * d).sum()) for f, d in zip(found, direction, strict=True))
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-4, abs=1e-9)
            grads.append(torch.cat(found))
            return found, value

    for shift in (0.0, 0.05):
        net = make_net(dtype=torch.float64, spread=0.2)
        with torch.no_grad():
            for p in net.weights().values():
                p.add_(shift * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double())
        learner = DartsLearner(settings(steps=1, **SOFT))
        learner.alpha_gradient = Slopes(learner.alpha_gradient)  # type: ignore[assignment]
        learner.run(net, ToySupport(2, dtype=torch.float64).task(), context())
    assert len(grads) == 2 and float((grads[0] - grads[1]).norm()) > 0.05 * float(grads[0].norm())


def test_halves_are_disjoint_and_cross_fitted() -> None:
    watch, adapted = run(settings(steps=4, **SOFT), ToySupport(5))
    assert adapted.report.alpha_split == "two halves, cross-fitted"
    seen: dict[str, dict[int, set[int]]] = {"weights": {}, "alphas": {}}
    for event in watch.events:
        seen[event.kind].setdefault(event.net, set()).update(event.scans)
    assert len(seen["weights"]) == 2 and seen["weights"].keys() == seen["alphas"].keys()
    for net, scans in seen["weights"].items():
        assert not scans & seen["alphas"][net]
    first, second = seen["weights"].values()
    assert not first & second and first | second == set(range(5))


def test_a_single_split_keeps_alphas_and_weights_apart() -> None:
    watch, adapted = run(settings(steps=4, alpha_gradient={"cross_fit": False}, **SOFT), ToySupport(4))
    assert adapted.report.alpha_split == "single split, 2 of 4 scans judge alphas"
    seen = {kind: {s for event in watch.of(kind) for s in event.scans} for kind in ("weights", "alphas")}
    assert not seen["weights"] & seen["alphas"] and all(seen.values()) and len({event.net for event in watch.events}) == 1


@pytest.mark.parametrize("num_scans", [2, 5])
def test_single_level_alphas_step_with_the_weights_from_one_gradient(num_scans: int) -> None:
    """A step moves the weights as one with frozen alphas does, and alphas by Adam along the same batch's gradient; it costs no more."""
    support = ToySupport(num_scans, dtype=torch.float64)
    common: dict[str, Any] = {"steps": 1, "alpha_decay": 0.0, "relaxation": {"tau_end": 1.0}, **SOFT}
    start = make_net(dtype=torch.float64, spread=0.2)
    kept, frozen = run(settings(alpha="frozen", **common), support, copy.deepcopy(start))
    before: list[tuple[SegmentationNet, Any]] = []

    def keep(net: SegmentationNet, arguments: Any) -> None:
        if torch.is_grad_enabled() and not before:
            hook.remove()
            before.append((copy.deepcopy(net), support.batches[-1]))

    net = copy.deepcopy(start)
    hook = net.register_forward_pre_hook(keep)
    watch, adapted = run(settings(alpha_lr=0.05, **common, **JOINT), support, net)
    report = adapted.report
    assert report.gradient_evaluations == frozen.report.gradient_evaluations == 1 and len(report.alpha_losses) == 1
    assert report.alpha_split == "none: alphas step with the weights" and report.losses == frozen.report.losses
    for name, value in frozen.net.weights().items():
        assert torch.equal(value, adapted.net.weights()[name]), name
    ((twin, batch),) = before
    assert set(batch.scans) == set(kept.events[0].scans) and not watch.taken
    rows = twin.alphas()
    for (name, old), g in zip(rows.items(), torch.autograd.grad(loss_of(twin, batch), list(rows.values())), strict=True):
        step = 0.05 * g / (g.abs() + 1e-8)  # the first of Adam, in closed form
        torch.testing.assert_close(adapted.net.alphas()[name], old.detach() - step, rtol=0, atol=1e-9)


def test_single_level_alphas_see_every_candidate_and_weights_every_scan() -> None:
    given = settings(steps=10, alpha_every=2, relaxation={"prune": 0.9}, batch=5, **JOINT)
    watch, adapted = run(given, ToySupport(5), net := make_net(spread=0.3))
    assert {s for event in watch.events[:5] for s in event.scans} == set(range(5))
    assert not watch.of("alphas") and watch.switched == [5]
    assert len(adapted.report.alpha_losses) == 3 and adapted.report.gradient_evaluations == 10
    # under such a threshold only the first of a row would run; Adam's first steps move all that has a gradient
    start = make_net(spread=0.3).alphas()
    moved = torch.cat([(a - start[n]).abs().flatten() for n, a in net.alphas().items() if a.numel() > 1])
    assert float((moved > 1e-3).double().mean()) > 0.9


@pytest.mark.parametrize("num_scans", [1, 2, 3])
def test_few_scans_share_and_the_report_says_so(num_scans: int) -> None:
    given = settings()
    _, adapted = run(given, ToySupport(num_scans))
    assert adapted.report.alpha_split == "same scans, other patches and augmentations"
    split = ALPHA_GRADIENTS.build("first_order", given.alpha_gradient).split(num_scans, rng())
    assert split.train == split.other == (tuple(range(num_scans)),)


def test_after_the_switch_every_scan_trains() -> None:
    watch, adapted = run(settings(steps=10, discretizer={"phase": 0.2}, batch=4), ToySupport(4))
    late = {s for event in watch.events[-8:] for s in event.scans}
    assert late == {0, 1, 2, 3} and not adapted.net.alphas()


def test_the_temperature_falls_and_the_genotype_is_read_off_at_the_switch() -> None:
    given = settings(steps=9, discretizer={"phase": 0.5}, relaxation={"tau_start": 2.0, "tau_end": 0.25})
    watch, adapted = run(given, ToySupport(2))
    assert watch.switched == [5]  # ceil(0.5 * 9)
    expected = [2.0 + (0.25 - 2.0) * i / 4 for i in range(5)]
    assert [event.tau for event in watch.of("weights")[:5]] == pytest.approx(expected)
    assert {event.tau for event in watch.of("weights")[5:]} == {None}
    report = adapted.report
    assert len(report.losses) == 9 and len(report.alpha_losses) == 5 and report.gradient_evaluations == 14
    assert report.genotype is not None and genotype_of(adapted.net.body) == report.genotype
    assert report.top_probability_min is not None and report.top_probability_mean is not None
    assert 0 < report.top_probability_min <= report.top_probability_mean <= 1
    assert report.dice_soft_at_switch is not None and report.dice_discrete_at_switch is not None
    assert report.gap_at_switch == pytest.approx(report.dice_soft_at_switch - report.dice_discrete_at_switch)
    assert report.gap_at_end is not None
    json.dumps(report.to_json(), allow_nan=False)
    for steps in (1, 2, 4):
        kept, _ = run(settings(steps=steps, relaxation={"tau_end": 0.5}, **SOFT), ToySupport(2))
        assert kept.switched == [] and kept.of("weights")[-1].tau == 0.5


@pytest.mark.parametrize(("limit", "switch"), [(3, 3), (0, 6), (40, 6)])
def test_the_search_of_a_long_run_is_limited(limit: int, switch: int) -> None:
    given = settings(steps=12, discretizer={"phase": 0.5, "max_steps": limit}, relaxation={"tau_start": 2.0, "tau_end": 0.25})
    watch, adapted = run(given, ToySupport(2))
    assert watch.switched == [switch] and len(adapted.report.alpha_losses) == switch and len(adapted.report.losses) == 12
    assert watch.of("weights")[switch - 1].tau == pytest.approx(0.25)  # it ends annealed, however short


@pytest.mark.parametrize("num_scans", [2, 4])
def test_the_discrete_network_keeps_the_weights(num_scans: int) -> None:
    support = ToySupport(num_scans)
    watch, adapted = run(settings(steps=3, discretizer={"phase": 1.0}), support, make_net(spread=0.5))
    assert watch.switched == [3] and watch.soft is not None and not adapted.net.alphas()
    batch = support.views(0)
    with torch.no_grad():
        one, other = (net(CPU.place(batch.images), batch.coords, STRIDES) for net in (watch.soft, adapted.net))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_given_network_ends_with_all_that_was_learned() -> None:
    """Reptile reads weights and alphas off the network that was given, also when the result is discrete."""
    for given in (settings(steps=6), settings(alpha="frozen"), settings(steps=3, discretizer={"phase": 1.0})):
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
    run(settings(steps=10, alpha_lr=0.05, **SOFT), ToySupport(2), net)
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
    _, kept = run(settings(alpha="frozen", **SOFT), ToySupport(2), net := make_net(spread=0.3))
    assert kept.net is net and kept.report.genotype is None and all(torch.equal(start[n], a) for n, a in net.alphas().items())
    drawn = [
        run(settings(alpha="random", steps=0), ToySupport(2), make_net(spread=0.3), seed)[1].report.genotype for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] and drawn[0] != chosen and drawn[1] != drawn[2]


def test_weights_of_every_candidate_train_while_the_network_is_soft() -> None:
    net = make_net()
    before = state_of(net)
    run(settings(alpha="frozen", lr=0.01, **SOFT), ToySupport(2), net)
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
    learner.run(both, a.task(), context(5))
    reload(both)
    first = learner.run(both, b.task(), context(6))
    second = DartsLearner(settings(steps=4)).run(alone, b.task(), context(6))
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


def infinite_slope(value: Tensor) -> Tensor:
    """Return zero, with a gradient that is not a number: the root of zero."""
    return (value - value.detach()).square().sum().sqrt()


class SteepPenalty:
    """A regularizer that is zero and whose gradient is not a number."""

    def on(self, net: SegmentationNet, task: Any) -> Any:
        return lambda model: infinite_slope(torch.cat(list(model.alphas().values())))


@pytest.mark.parametrize("of", ["weights", "alphas", "alphas with weights"])
def test_a_gradient_that_is_not_finite_raises_before_the_step(of: str) -> None:
    """After the last step no loss would show it, and the state would be averaged into the meta-learned one."""
    part = JOINT if of == "alphas with weights" else {}
    learner = DartsLearner(settings(steps=1, alpha="frozen" if of == "weights" else "adapt", **SOFT, **part))
    net = make_net()
    before = {n: p.clone() for n, p in net.weights().items()} | {n: p.clone() for n, p in net.alphas().items()}
    if of == "weights":
        net.register_forward_hook(lambda *given: given[-1] + infinite_slope(given[-1]))
    else:
        learner.regularizers.append(SteepPenalty())
    with pytest.raises(NonFiniteLossError, match="gradient"):
        learner.run(net, ToySupport(2).task(), context())
    assert equal_states(before, {**net.weights(), **net.alphas()})


def test_alphas_without_a_gradient_stay() -> None:
    """If the decay were in the gradient, Adam would make whole steps of it, and undo in ten of them what was meta-learned."""

    class Flat:
        bilevel, evaluations, exact = True, 1, False

        def split(self, num_scans: int, generator: Any) -> Any:
            return ALPHA_GRADIENTS.build("first_order", settings().alpha_gradient).split(num_scans, generator)

        def take(self, train: Any, judge: Any, weights: Any, alphas: Any, rate: float) -> Any:
            return [torch.zeros_like(a) for a in alphas], 0.0

    learner, net = DartsLearner(settings(steps=10, alpha_lr=0.05, **SOFT)), make_net(spread=0.5)
    before = {n: p.clone() for n, p in net.alphas().items()}
    learner.alpha_gradient = Flat()  # type: ignore[assignment]
    learner.run(net, ToySupport(2).task(), context())
    for name, row in net.alphas().items():
        torch.testing.assert_close(row, before[name], rtol=1e-3, atol=0)


def test_pruned_candidates_are_judged_though_they_are_not_trained() -> None:
    watch, _ = run(settings(steps=4, discretizer={"phase": 1.0}, relaxation={"prune": 0.05}), ToySupport(2))
    assert {(event.kind, event.prune) for event in watch.events} == {("alphas", 0.0), ("weights", 0.05)}


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
        """Patches on which nothing can be seen: what the scan itself shows does not hold there."""

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
        price = [{"name": "cost", "weight": weight, "budget": 0.1}] if weight else []
        run(settings(steps=6, regularizers=price, **SOFT), ToySupport(2), net)
        net.body.relax(soft(0.3))
        with torch.no_grad():
            costs.append(float(expected_multiply_adds(net.body, SHAPE, STRIDES)))
    assert costs[1] < 0.9 * costs[0]


def test_the_penalty_of_single_level_alphas_does_not_move_weights() -> None:
    nets, losses = [], []
    for weight in (0.0, 20.0):
        price = [{"name": "cost", "weight": weight, "budget": 0.1}] if weight else []
        _, adapted = run(settings(steps=1, regularizers=price, **SOFT, **JOINT), ToySupport(2), net := make_net())
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
    """Of ten steps, six search where alphas adapt: the mean has none from before the switch."""
    given = settings(
        steps=10, alpha=alpha, discretizer={"phase": 0.6}, optimizer="muon", kernel_lr=0.05, average=average, **JOINT
    )
    support, watch = ToySupport(2, dtype=torch.float64), Watch(keep_states=True)
    start = make_net(dtype=torch.float64, spread=0.3)
    adapted = watch.run(given, support, start)
    found, seen = state_of(adapted.net), watch.states
    assert len(seen) == 10 and set(found) == set(seen[-1])
    for name, value in found.items():
        exact = 1e-12 if value.dtype == torch.float64 else 1e-6  # a task's parameters are float32
        torch.testing.assert_close(value, torch.stack([s[name] for s in seen[-averaged:]]).mean(0), rtol=0, atol=exact)
    assert (averaged > 1) == any(not torch.equal(value, seen[-1][name]) for name, value in found.items())
    body = dict(start.body.named_parameters())
    assert all(torch.equal(body[n.removeprefix("body.")], v) for n, v in found.items() if n.startswith("body."))


def test_second_order_is_the_gradient_through_one_weight_step() -> None:
    support = ToySupport(2, dtype=torch.float64)
    first, _ = run(settings(steps=2, lr=0.05, **SOFT), support, make_net(dtype=torch.float64, spread=0.2))
    given = settings(steps=2, lr=0.05, alpha_gradient={"name": "second_order"}, **SOFT)
    watch, adapted = run(given, support, make_net(dtype=torch.float64, spread=0.2))
    assert adapted.report.gradient_evaluations == 2 * (4 + 1)
    taken = watch.taken[0]
    for one, other in zip(first.taken[0].exact, taken.exact, strict=True):
        torch.testing.assert_close(one, other)
    difference = torch.cat(taken.used) - torch.cat(taken.exact)
    assert 1e-4 < float(difference.norm() / torch.cat(taken.exact).norm()) < 10


def test_shallower_networks_and_plain_ones_adapt() -> None:
    net = make_net()
    with torch.no_grad():
        net.alphas()["body.alphas.depth"][0] = 5.0  # two levels of three
    _, adapted = run(settings(alpha="frozen"), ToySupport(2), net)
    assert adapted.report.genotype is not None and adapted.report.genotype["picks"]["depth"] == "2"
    assert adapted.report.ridge_strength is not None
    _, plain = run(settings(), ToySupport(5), net := make_net("unet"))
    assert plain.net is net and plain.report.genotype is None and plain.report.alpha_split == "none"


def test_the_step_hook_and_the_registry() -> None:
    seen: list[tuple[int, float]] = []
    given = context(on_step=lambda i, v: seen.append((i, v)))
    report = DartsLearner(settings()).run(make_net(), ToySupport(4).task(), given).report
    assert [i for i, _ in seen] == [0, 1, 2, 3] and [v for _, v in seen] == report.losses
    assert "darts" in LEARNERS.names() and isinstance(build_learner(settings()), DartsLearner)
    with pytest.raises(ConfigError, match="did you mean 'darts'"):
        build_learner(settings(name="dart"))


def test_frozen_settings_keep_alphas_soft_or_discrete() -> None:
    given = settings(alpha="random", steps=7)
    soft_one, discrete = given.fixed(discrete=False), given.fixed(discrete=True)
    assert (soft_one.alpha, discrete.alpha) == ("frozen", "frozen") and soft_one.steps == discrete.steps == 7
    assert soft_one.soft and not discrete.soft and discrete.discretizer == ArgmaxSettings()
    assert given.keeps_alphas and discrete.keeps_alphas and not settings().keeps_alphas


def test_batches_are_requested_by_half() -> None:
    support = ToySupport(4)
    DartsLearner(settings(steps=4)).run(make_net(), support.task(), context())
    halves = {scans for _, scans in support.requests[:4]}
    assert len(halves) == 2 and set().union(*halves) == {0, 1, 2, 3}
    assert [scans for _, scans in support.requests[4:]] == [(0, 1, 2, 3)] * 2
    assert isinstance(support.views(0), ToyBatch)


def test_muon_steps_the_kernels_of_stem_and_body_and_nothing_of_the_head_or_task() -> None:
    moved = {}
    for kind, rates in (("muon", {"kernel_lr": 0.5}), ("adam", {})):
        net = make_net()
        s = settings(optimizer=kind, lr=1e-12, head_lr=1e-3, **rates)
        before, optimizer = state_of(net), WeightSteps(s, ToySupport().task(), context(), LearnerReport()).optimizer(net)
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
        watch = Watch()
        given = settings(steps=1, lr=0.05, alpha_gradient={"name": "second_order"}, head="meta_row", **SOFT)
        watch.run(given, support, make_net(spread=0.2), runtime=Runtime(bfloat16=bfloat16, channels_last=False))
        found.append(torch.cat(watch.taken[0].used))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)
