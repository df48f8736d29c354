"""Regularizers that change what steps see: DARTS- and SDARTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med.engine.settings import load_settings
from metanas_med.errors import ConfigError
from metanas_med.learner import DartsLearner
from metanas_med.learner.hooks import SearchHooks
from metanas_med.learner.regularizers import REGULARIZERS
from metanas_med.learner.regularizers.darts_minus import DartsMinus, DartsMinusSettings, num_auxiliary
from metanas_med.learner.regularizers.sdarts import adversarial_rows, as_weights, random_rows
from metanas_med.space.blocks.edge import Edge, Read, merge_reads
from metanas_med.space.blocks.operations import Source
from metanas_med.space.choice import Choice, Relaxed, softmax_choice

from .toy import JOINT, SOFT, STRIDES, ToySupport, context, make_net, settings
from .watch import run

NAMES = ("conv333", "identity", "max_pool")


def rows() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {f"r{n}": torch.randn(n, generator=g, dtype=torch.float64).softmax(0) for n in (2, 3, 5)}


# DARTS-


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(("cin", "stride"), [(3, (1, 1, 1)), (3, (2, 2, 1)), (2, (1, 1, 1))])
def test_a_mixed_edge_adds_the_auxiliary_skip_where_channels_stay(cin: int, stride: Any, separate: bool) -> None:
    edge = Edge(NAMES, cin, 3, 3, separate, torch.Generator().manual_seed(0)).double()
    x = torch.randn(2, cin, 7, 6, 5, generator=torch.Generator().manual_seed(1)).double()
    p, weight = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor(0.7, dtype=torch.float64)

    def out(skip: float) -> Tensor:
        read = Read(edge, weight, p, [0, 1, 2], skip=skip)
        merge_reads([read])
        return edge(Source(x, stride), read)

    thin = x[:, :, :: stride[0], :: stride[1], :: stride[2]]
    expected = 0.4 * 0.7 * thin if cin == 3 else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(out(0.4) - out(0.0), expected.expand_as(out(0.0)), rtol=0, atol=1e-12)


def test_the_auxiliary_skip_falls_to_nothing_and_is_gone_in_the_result() -> None:
    part = DartsMinus(DartsMinusSettings(start=0.8))
    assert [part.weigh(Choice(), t).skip for t in (0.0, 0.5, 1.0)] == pytest.approx([0.8, 0.4, 0.0])
    net, support = make_net(), ToySupport(2)
    assert num_auxiliary(net.body) > 0
    seen: list[float] = []

    def note(body: Any, given: Any) -> None:
        seen.append(body.choose().skip)

    net.body.register_forward_pre_hook(note)
    _, adapted = run(settings(steps=4, regularizers=[{"name": "darts_minus"}], **SOFT), support, net)
    assert adapted.net.body.relaxed.adjust is None and adapted.net.body.choose().skip == 0.0
    assert sorted({round(s, 6) for s in seen}, reverse=True) == [1.0, round(2 / 3, 6), round(1 / 3, 6), 0.0]


def test_the_auxiliary_skip_changes_the_search() -> None:
    found = []
    for part in ([], [{"name": "darts_minus"}]):
        run(settings(steps=3, regularizers=part, **SOFT), ToySupport(2), net := make_net(spread=0.1))
        found.append(torch.cat([row.detach() for row in net.alphas().values()]))
    assert not torch.equal(*found)


def test_a_space_without_an_edge_for_it_is_refused_before_any_step() -> None:
    net, support = make_net(candidates=("conv333",), coarse_candidates=()), ToySupport(2)
    assert num_auxiliary(net.body) == 0 and net.alphas()
    with pytest.raises(ConfigError, match="darts_minus: no mixed edge of the space 'unet_supernet' keeps its number of channels"):
        run(settings(regularizers=[{"name": "darts_minus"}]), support, net)
    assert support.requests == []


def test_such_a_space_is_refused_when_settings_are_read() -> None:
    given = ["--learner.regularizers", "[{name: darts_minus}]", "--space.coarse_candidates", "[]"]
    load_settings(None, given)
    with pytest.raises(ConfigError, match="learner: regularizer darts_minus: no mixed edge.*Use a space of cells"):
        load_settings(None, [*given, "--space.candidates", "[conv333]"])


# SDARTS


def test_random_rows_stay_within_the_radius_and_weigh_options() -> None:
    given, g = rows(), torch.Generator().manual_seed(0)
    draws = [random_rows(given, 0.1, g) for _ in range(200)]
    for name, row in given.items():
        every = torch.stack([found[name] for found in draws])
        torch.testing.assert_close(every.sum(1), torch.ones(200, dtype=torch.float64))
        assert every.min() >= 0 and every.max() <= 1
        assert not torch.equal(draws[0][name], draws[1][name])
        # before the sum is restored, no weight moves by more than the radius: after it, by the sum's share more
        assert float((every - row).abs().max()) < 0.1 * (1 + len(row)) and float(every.std(0).min()) > 0.01
    assert all(torch.equal(row, given[name]) for name, row in random_rows(given, 0.0, g).items())


def test_adversarial_rows_climb_a_linear_loss_to_the_corner_of_the_ball() -> None:
    """For a slope that sums to zero along the signs, the last point is the projection of ``p + radius * sign(slope)``."""
    given = {"r": torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)}
    slope = torch.tensor([1.0, -2.0, 3.0, -0.5], dtype=torch.float64)
    found = adversarial_rows(given, lambda r: (r["r"] * slope).sum(), 0.05)
    torch.testing.assert_close(found["r"], given["r"] + 0.05 * slope.sign())
    clamped = adversarial_rows(given, lambda r: (r["r"] * slope).sum(), 0.2)["r"]
    assert clamped.min() >= 0 and clamped.sum() == pytest.approx(1.0) and (clamped * slope).sum() > (given["r"] * slope).sum()


def test_adversarial_rows_are_undone_where_the_loss_fell() -> None:
    """The loss falls away from a sharp peak: signed steps leave it on one side."""
    given = {"r": torch.tensor([0.5, 0.5], dtype=torch.float64)}
    losses: list[float] = []

    def loss(r: Mapping[str, Tensor]) -> Tensor:
        value = -(r["r"][0] - 0.5001).abs()
        losses.append(float(value.detach()))
        return value

    assert torch.equal(adversarial_rows(given, loss, 0.1, ascents=3)["r"], given["r"])
    assert len(losses) == 3 + 2 and losses[-1] < losses[0]


def test_rows_keep_the_sum_that_a_relaxation_gives_them() -> None:
    given = torch.tensor([0.9, 0.6], dtype=torch.float64)  # of sigmoids
    assert float(as_weights(given + torch.tensor([0.3, -0.1]), given).sum()) == pytest.approx(1.5)


@pytest.mark.parametrize("mode", ["random", "adversarial"])
def test_weight_steps_are_perturbed_and_alpha_steps_are_not(mode: str) -> None:
    """What forward passes see: alphas of zero are uniform in alpha steps, and not in weight steps."""
    net, support = make_net(), ToySupport(2)
    uniform = {name: 1 / len(row.options) for name, row in net.body.rows().items()}
    seen: list[bool] = []

    def note(body: Any, given: Any) -> None:
        if torch.is_grad_enabled():
            seen.append(all(torch.allclose(row, torch.tensor(uniform[name])) for name, row in body.choose().rows.items()))

    net.body.register_forward_pre_hook(note)
    part = {"name": "sdarts", "mode": mode, "radius_start": 0.1}
    given = settings(steps=1, regularizers=[part], head="meta_row", **SOFT)
    adapted = DartsLearner(given).run(net, support.task(), context())
    # the alpha step; then, if adversarial, seven ascents of which the first starts at the given rows; then the weight step
    assert seen[:1] == [True] and seen[-1] is False
    assert len(seen) == (1 + 7 + 1 if mode == "adversarial" else 2)
    assert adapted.report.gradient_evaluations == len(seen)
    assert adapted.net.body.relaxed.adjust is None


def test_the_adversarial_rows_of_a_step_raise_its_loss() -> None:
    net, support = make_net(spread=0.2), ToySupport(2)
    task = support.task()
    kind = REGULARIZERS.entry("sdarts").settings
    assert kind is not None
    hooks = SearchHooks([REGULARIZERS.build("sdarts", kind(mode="adversarial", radius_start=0.1))], net, task)
    batch = support.views(0)
    net.body.relax(Relaxed())

    def loss() -> Tensor:
        return net(batch.images, batch.coords, STRIDES).logsumexp(1).square().mean()

    with torch.no_grad():
        before = float(loss())
    with hooks.perturbed(net, loss, torch.Generator()):
        with torch.no_grad():
            within = float(loss())
    with torch.no_grad():
        after = float(loss())
    assert within > before and after == before and hooks.evaluations == 7


def test_random_perturbations_come_from_the_seed_of_the_run() -> None:
    given = settings(steps=3, regularizers=[{"name": "sdarts"}])
    states = []
    for seed in (0, 0, 1):
        net = make_net()
        DartsLearner(given).run(net, ToySupport(2).task(), context(seed))
        states.append(torch.cat([p.detach().flatten() for p in net.weights().values()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_perturbed_rows_replace_logits_and_keep_other_adjustments() -> None:
    net = make_net()
    before = Relaxed(adjust=lambda choice, progress: replace(choice, skip=0.5))
    net.body.relax(before)
    kind = REGULARIZERS.entry("sdarts").settings
    assert kind is not None
    hooks = SearchHooks([REGULARIZERS.build("sdarts", kind(radius_start=0.2))], net, ToySupport().task())
    with hooks.perturbed(net, lambda: torch.zeros(()), torch.Generator().manual_seed(0)):
        seen = net.body.choose()
    assert seen.skip == 0.5 and seen.logits is None and not seen.rows["depth"].requires_grad
    assert net.body.relaxed is before and softmax_choice({"depth": torch.zeros(2)}).logits is not None


@pytest.mark.parametrize("level", [JOINT, {"alpha_gradient": {"name": "single_level"}}])
def test_single_level_is_refused_with_what_to_do(level: Any) -> None:
    with pytest.raises(ValueError, match="regularizer sdarts: .*Use alpha_gradient.name first_order"):
        settings(regularizers=[{"name": "sdarts"}], **level)
    settings(regularizers=[{"name": "sdarts"}], alpha="frozen", **level)  # nothing is searched


def test_the_price_of_adversarial_steps_is_known_before_the_run() -> None:
    plain = settings(steps=4, **SOFT)
    dear = settings(steps=4, regularizers=[{"name": "sdarts", "mode": "adversarial"}], **SOFT)
    assert dear.extra_evaluations(4) - plain.extra_evaluations(4) == 4 * 7
    assert settings(regularizers=[{"name": "sdarts"}]).extra_evaluations(4) == settings().extra_evaluations(4)
