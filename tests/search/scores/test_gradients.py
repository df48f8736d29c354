"""Scores of gradients: SynFlow, the gradient's norm and SNIP, against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from metanas_med.learner import NonFiniteLossError
from metanas_med.learner.losses import segmentation_loss
from metanas_med.search.scores import build_score
from metanas_med.search.scores.gradients import GradNormSettings, SnipSettings
from metanas_med.search.scores.probe import linear
from metanas_med.search.scores.synflow import path_strengths
from metanas_med.space.network import NUM_POSITION

from ...learner.toy import STRIDES, ToySupport, context, make_net
from .line import line


def test_synflow_of_a_chain_is_the_sum_of_the_products_along_all_paths() -> None:
    net, task = line(), ToySupport(num_channels=2, num_organs=3).task()
    stem = net.stem.kernel[:, 0, 1, 1, 1].abs()  # the vectors of two channels, 1/2 each, add up to 1
    first, second = (net.body.get_parameter(name)[..., 0, 0, 0].abs() for name in ("first", "second"))
    rows = net.head.background.abs() + 3 * net.head.organ.abs()
    through = float((rows[:-NUM_POSITION] @ (second @ (first @ stem))).detach())
    found = path_strengths(net, task, 16)
    for layer in (["stem.kernel"], ["body.first"], ["body.second"], ["head.background", "head.organ"]):
        assert sum(float(found[name].sum()) for name in layer) == pytest.approx(through)
    assert build_score("synflow")(net, task, context()) == pytest.approx(math.log(4 * through))
    assert not any("norm" in name for name in found)


@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
def test_path_strengths_are_finite_differences_of_the_flow(name: str) -> None:
    net, task = make_net(name, dtype=torch.float64, spread=0.3), ToySupport().task()
    found = path_strengths(net, task, 16)

    def flow() -> float:
        return float(path_strengths(net, task, 16)["stem.kernel"].sum())  # every path passes the stem once

    weights = net.weights()
    for key in sorted(found)[:: max(len(found) // 12, 1)]:
        value = weights[key].detach().reshape(-1)
        index, step = int(found[key].argmax()), 1e-4
        own = float(value[index])
        value[index] = own + math.copysign(step, own)
        above = flow()
        value[index] = own - math.copysign(step, own)
        below = flow()
        value[index] = own
        assert float(found[key].flatten()[index]) == pytest.approx(abs(own) * (above - below) / (2 * step), rel=1e-5), key


@pytest.mark.parametrize("name", ["unet", "unet_supernet", "fewshot"])
def test_without_norms_a_network_of_positive_weights_doubles_with_its_input(name: str) -> None:
    net = make_net(name, dtype=torch.float64)
    with torch.no_grad(), linear(net):
        for p in net.weights().values():
            p.abs_()
        x = torch.rand(1, 1, 8, 8, 6, dtype=torch.float64)
        once, twice = (net.features(factor * x, STRIDES) for factor in (1.0, 2.0))
    assert all(torch.allclose(2 * a, b, rtol=1e-12) for a, b in zip(once, twice, strict=True))


def test_synflow_survives_products_that_float32_cannot_hold() -> None:
    net, task = line(dtype=torch.float32), ToySupport().task()
    before = build_score("synflow")(net, task, context())
    with torch.no_grad():
        for p in (net.body.get_parameter("first"), net.body.get_parameter("second"), net.stem.kernel):
            p.mul_(1e-20)
    assert build_score("synflow")(net, task, context()) == pytest.approx(before - 60 * math.log(10))
    with torch.no_grad():
        net.stem.kernel.zero_()
    assert build_score("synflow")(net, task, context()) == -math.inf


def test_grad_norm_and_snip_are_sums_over_finite_differences() -> None:
    net, support = line(), ToySupport(dtype=torch.float64)
    task = support.task()
    plain = {"batch": 2, "head": "meta_row"}
    norm = build_score(GradNormSettings.model_validate(plain))(net, task, context())
    snip = build_score(SnipSettings.model_validate(plain))(net, task, context())
    batch = support.batches[-1]

    @torch.no_grad()
    def loss() -> float:
        return float(segmentation_loss()(net(batch.images, batch.coords, STRIDES), batch.labels))

    norms, products, step = 0.0, 0.0, 1e-7
    for weight in net.weights().values():
        flat, squares = weight.detach().reshape(-1), 0.0
        for i in range(len(flat)):
            own = float(flat[i])
            flat[i] = own + step
            above = loss()
            flat[i] = own - step
            slope = (above - loss()) / (2 * step)
            flat[i] = own
            squares += slope**2
            products += abs(own * slope)
        norms += math.sqrt(squares)
    assert norm == pytest.approx(norms, rel=1e-4) and snip == pytest.approx(products, rel=1e-4)


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    net = make_net("unet")
    with torch.no_grad():
        net.stem.kernel.fill_(math.nan)
    with pytest.raises(NonFiniteLossError):
        build_score(SnipSettings(head="meta_row", batch=1))(net, ToySupport().task(), context())
