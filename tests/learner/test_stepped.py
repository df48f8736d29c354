"""Which parts a run steps, its factor of the rates, and that parts that stay cost no gradient."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med.engine.fits import check_meta
from metanas_med.engine.memory import Step, learner_need, sketch_of
from metanas_med.errors import ConfigError
from metanas_med.learner import Runtime, SgdSettings, build_learner
from metanas_med.learner.base import LearnerSettings
from metanas_med.learner.stepped import only_stepped, stepped
from metanas_med.meta import MetaSettings
from metanas_med.space.base import Body
from metanas_med.space.network import SegmentationNet

from .toy import SHAPE, SOFT, STRIDES, ToySupport, context, make_net, settings
from .watch import loss_of, state_of

DECODERS = {"unet_supernet": ("body.cells.up",), "unet": ("body.convs.up", "body.norms.up", "body.convs.project")}


def changed(net: SegmentationNet, before: dict[str, Tensor]) -> set[str]:
    """Return the names of the parameters that differ from ``before``."""
    return {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}


def ways(**changes: Any) -> list[LearnerSettings]:
    """Return a search, frozen alphas, a soft network, and plain steps."""
    search = settings(alpha_gradient={"name": "first_order"}, average=0.5, **changes)
    cross = settings(alpha_gradient={"name": "second_order", "cross_fit": True}, **changes)
    frozen, soft = settings(alpha="frozen", **changes), settings(alpha="frozen", **SOFT, **changes)
    return [search, cross, frozen, soft, SgdSettings(steps=3, batch=2, ridge_voxels=60, **changes)]


@pytest.mark.parametrize("name", ["unet_supernet", "unet"])
@pytest.mark.parametrize("which", range(5))
def test_other_parts_stay_bit_for_bit(name: str, which: int) -> None:
    before = state_of(make_net(name, spread=0.3))
    for parts in ("head", "decoder"):
        learner = ways(stepped=parts)[which]
        net = make_net(name, spread=0.3)
        adapted = build_learner(learner).run(net, ToySupport(4, num_channels=2).task(), context())
        moved = changed(net, before | net.task_parameters()) - set(net.alphas())
        if parts == "head":
            assert moved <= {"head.background", "head.organ"} and moved
        else:
            assert {n for n in moved if n.startswith("body.")} and all(n.startswith((*DECODERS[name], "head.")) for n in moved)
        start = torch.full_like(net.task["channels"], 0.5)
        assert torch.equal(net.task["channels"], start) and torch.equal(adapted.net.task["channels"], start)
        assert all(p.requires_grad for p in [*net.parameters(), *adapted.net.parameters()])


def test_the_decoder_is_all_that_follows_the_encoder() -> None:
    """With other weights in the decoder, the coarsest feature does not change."""
    for name in DECODERS:
        net = make_net(name)
        images = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before = net.features(images, STRIDES)[-1].clone()
            decoder = net.body.decoder()
            assert decoder and decoder <= net.body.weights().keys()
            for weight in decoder:
                net.body.get_parameter(weight).mul_(0.5)
            after = net.features(images, STRIDES)
        assert torch.equal(before, after[-1])
        assert all(f"body.{n}".startswith(DECODERS[name]) for n in decoder)


def test_steps_on_the_head_take_no_gradient_of_the_body() -> None:
    net = make_net(spread=0.3)
    net.start_task(2, 1)
    batch = ToySupport(2, num_channels=2).views(0)
    with only_stepped([net], "head", alphas=False):
        loss = loss_of(net, batch)
        nodes, seen = [loss.grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen.add(node)
                nodes += [before for before, _ in node.next_functions]
        kinds = {type(node).__name__ for node in seen}
        leaves = {id(node.variable) for node in seen if hasattr(node, "variable")}
        assert leaves == {id(p) for p in stepped(net, "head").values()}
        assert not any("Norm" in kind for kind in kinds)  # the body is not in the graph
    assert loss_of(net, batch).grad_fn is not None and all(p.requires_grad for p in net.parameters())


def test_less_is_stored_for_fewer_parts() -> None:
    runtime, step = Runtime(), Step(SHAPE, STRIDES, 2)
    found = []
    for parts in ("all", "decoder", "head"):
        net = sketch_of(make_net())
        found.append(learner_need(net, step, settings(alpha="frozen", stepped=parts), runtime))
        assert all(p.requires_grad for p in net.parameters())
    for name in ("activations", "gradients", "moments", "total"):
        most, some, least = (getattr(need, name) for need in found)
        assert most > some > least, name
    assert len({need.parameters for need in found}) == 1


@pytest.mark.parametrize("learner", [settings(stepped="decoder"), SgdSettings(steps=1, stepped="decoder")])
def test_a_space_that_names_no_decoder_is_refused(learner: LearnerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_net()
    monkeypatch.setattr(type(net.body), "decoder", Body.decoder)
    with pytest.raises(
        ConfigError, match="stepped decoder: the search space 'unet_supernet' does not say .* Use stepped all or head"
    ):
        build_learner(learner).run(net, ToySupport().task(), context())


def test_a_query_gradient_needs_all_parts() -> None:
    with pytest.raises(ConfigError, match="stepped head: a query gradient needs steps of all parts"):
        build_learner(SgdSettings(stepped="head")).run(make_net(), ToySupport().task(), context(query_gradient="first_order"))
    from metanas_med.meta import METAS

    fomaml: MetaSettings = METAS.entry("fomaml").settings()  # type: ignore[assignment, misc]
    check_meta(fomaml, SgdSettings())
    with pytest.raises(ConfigError, match="needs steps of all parts, found learner.stepped decoder"):
        check_meta(fomaml, SgdSettings(stepped="decoder"))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_the_factor_multiplies_the_rates(optimizer: str) -> None:
    """All but that of alphas."""
    rates = {"lr": 4e-3, "kernel_lr": 2e-2, "head_lr": 8e-3}
    states = []
    for given in (rates | {"rate": 0.5}, {name: rate / 2 for name, rate in rates.items()}):
        net = make_net(spread=0.1)
        build_learner(settings(steps=3, optimizer=optimizer, **given)).run(net, ToySupport(2).task(), context())
        states.append(state_of(net))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    one, other = make_net("unet"), make_net("unet")
    for net, given in ((one, {"lr": 0.1, "rate": 0.5}), (other, {"lr": 0.05})):
        build_learner(SgdSettings(steps=2, ridge_voxels=60, **given)).run(net, ToySupport(2).task(), context())  # type: ignore[arg-type]
    assert all(torch.equal(value, state_of(other)[name]) for name, value in state_of(one).items())


def test_settings_without_an_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings(stepped="head", optimizer="muon", lr=0.5, kernel_lr=0.5, early_batch=2, coarse=False)
        settings(early=0.5, coarse=False)
    for text in ("lr 0.5 has no effect: stepped is head", "kernel_lr 0.5 has no effect: stepped is head",
                 "early_batch 2 has no effect: early is 0", "coarse False has no effect: early is 0",
                 "early 0.5 has no effect: coarse is false and early_batch is 0"):  # fmt: skip
        assert text in caplog.text
    caplog.clear()
    settings(stepped="decoder", early=0.5, early_batch=2, rate=0.3)
    assert not caplog.records
