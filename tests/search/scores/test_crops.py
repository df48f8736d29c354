"""Scores of crops: NASWOT against numpy and closed forms, jacov against a linear network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.search.scores import build_score
from metanas_med.search.scores.jacobian import correlation_score
from metanas_med.search.scores.patterns import NaswotSettings, agreement, log_determinant
from metanas_med.search.scores.probe import draw_crops, linear
from metanas_med.space.blocks.norm import Norm

from ...learner.toy import STRIDES, ToySupport, context, make_net, rng
from .line import line


def test_crops_take_turns_and_every_second_shows_an_organ() -> None:
    support = ToySupport(num_scans=2)
    images, coords = draw_crops(support.task(), 8, 4, rng())
    assert images.shape == (8, 1, 4, 4, 3) and coords.shape == (8, 3, 4, 4, 3)  # half of the six slices
    for index in range(8):
        whole = support.views(index % 2)
        place = (whole.coords[0] == coords[index][:, :1, :1, :1]).all(0).nonzero()[0]
        where = tuple(slice(int(s), int(s) + n) for s, n in zip(place, (4, 4, 3), strict=True))
        assert torch.equal(images[index, 0], whole.images[0, 0][where])
        assert index // 2 % 2 or whole.labels[0][where].any()


@pytest.mark.parametrize("num_scans", [1, 2])
def test_no_two_crops_lie_at_one_place(num_scans: int) -> None:
    images, _ = draw_crops(ToySupport(num_scans=num_scans).task(), 32, 16, rng())
    assert images.shape[2:] == (5, 5, 3)
    assert len({tuple(crop.flatten().tolist()) for crop in images}) == 32


class InAir(ToySupport):
    """Scans that show nothing but air in two thirds of the view."""

    def scan(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = super().scan(number)
        image[:, 4:] = -1.0
        labels[4:] = 0
        labels[1:3, 4:6, 2:4] = 1
        return image, labels


def test_crops_of_air_alone_are_not_drawn() -> None:
    images, _ = draw_crops(InAir(num_scans=5).task(), 40, 3, rng())
    assert all(float(crop.min()) < float(crop.max()) for crop in images)
    assert math.isfinite(build_score("naswot")(make_net("unet"), InAir(num_scans=5).task(), context()))


def test_agreement_counts_equal_entries() -> None:
    patterns = np.random.default_rng(0).random((5, 37)) < 0.4
    expected = [[float((a == b).sum()) for b in patterns] for a in patterns]
    assert agreement(torch.from_numpy(patterns)).tolist() == expected


def test_log_determinants_of_orthogonal_and_of_equal_patterns() -> None:
    hadamard = np.array([[1]])
    for _ in range(3):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    # orthogonal signs: D on the diagonal, D / 2 elsewhere, so the determinant is (D / 2)^N (N + 1)
    kernel = agreement(torch.from_numpy(hadamard > 0))
    assert log_determinant(kernel) == pytest.approx(8 * math.log(4) + math.log(9))
    twice = torch.from_numpy(np.concatenate([hadamard[:4], hadamard[:4]]) > 0)
    assert log_determinant(agreement(twice)) == -math.inf


@pytest.mark.parametrize("space", [{"name": "unet"}, {"name": "unet", "dims": 2}, {"name": "unet_supernet", "spread": 0.5}])
def test_naswot_is_the_log_determinant_of_the_patterns_of_all_norms_and_the_stem(space: dict[str, Any]) -> None:
    net, task = make_net(**space), ToySupport().task()
    images, coords = draw_crops(task, 32, 4, rng(5))
    outputs: list[Any] = []
    handles = [m.register_forward_hook(lambda *given: outputs.append(given[2])) for m in net.modules() if isinstance(m, Norm)]
    with torch.no_grad():
        outputs.append(net.stem(images, net.task["channels"]))
        net(images, coords, STRIDES)
    for handle in handles:
        handle.remove()
    signs = [np.sign(out.reshape(32, -1).numpy()) for out in outputs]  # slices of a volume follow each other
    codes = np.concatenate(signs, 1) > 0
    kernel = codes.astype(float) @ codes.T + (~codes).astype(float) @ (~codes).T
    score = build_score(NaswotSettings(extent=4))(net, task, context(5))
    assert score == pytest.approx(float(np.linalg.slogdet(kernel)[1]), rel=1e-9)


def test_naswot_fails_a_network_that_sees_nothing() -> None:
    net = make_net("unet")
    with torch.no_grad():
        net.stem.kernel.zero_()
    assert build_score("naswot")(net, ToySupport().task(), context()) == -math.inf


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_the_score_of_jacobians_of_known_correlation(correlation: float) -> None:
    rows = np.linalg.qr(np.column_stack([np.ones(20), np.random.default_rng(0).normal(size=(20, 2))]))[0].T[1:]
    mixed = np.stack([rows[0], correlation * rows[0] + math.sqrt(1 - correlation**2) * rows[1]])
    values = np.array([1 + correlation, 1 - correlation]) + 1e-5
    assert correlation_score(7 * mixed + 3) == pytest.approx(-np.sum(np.log(values) + 1 / values))


def test_a_constant_jacobian_has_no_score() -> None:
    assert correlation_score([[1, 1, 1], [1, 2, 3]]) == -math.inf


def test_jacov_of_a_linear_network_is_that_of_one_jacobian() -> None:
    net = line(point=False, dtype=torch.float32)
    with linear(net):
        score = build_score("jacov")(net, ToySupport().task(), context())
    # the gradient of a linear map does not depend on its input: all correlations are 1
    values = np.array([32.0, *[0.0] * 31]) + 1e-5
    assert score == pytest.approx(-np.sum(np.log(values) + 1 / values), rel=1e-3)


def test_jacov_is_that_of_the_gradients_of_single_crops() -> None:
    net, task = make_net("unet"), ToySupport().task()
    images, coords = draw_crops(task, 32, 16, rng(2))
    rows = []
    for image, places in zip(images, coords, strict=True):
        x = image[None].clone().requires_grad_()
        rows.append(torch.autograd.grad(net(x, places[None], STRIDES).sum(), x)[0].flatten().numpy())
    values = np.linalg.eigvalsh(np.corrcoef(np.array(rows, dtype=float))) + 1e-5
    assert build_score("jacov")(net, task, context(2)) == pytest.approx(-np.sum(np.log(values) + 1 / values), rel=1e-4)
