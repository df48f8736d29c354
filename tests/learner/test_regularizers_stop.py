"""Regularizers that end a search: R-DARTS by the curvature of the loss, DARTS+ by the number of skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med.errors import ConfigError
from metanas_med.learner import DartsLearner
from metanas_med.learner.curvature import hessian_product, largest_eigenvalue
from metanas_med.learner.hooks import SearchHooks
from metanas_med.learner.losses import segmentation_loss
from metanas_med.learner.regularizers import REGULARIZERS, r_darts
from metanas_med.learner.regularizers.darts_plus import skips_of
from metanas_med.learner.regularizers.r_darts import stop_at
from metanas_med.space import genotype
from metanas_med.space.base import Row
from metanas_med.space.choice import Relaxed
from metanas_med.space.network import SegmentationNet

from .toy import JOINT, SOFT, STRIDES, ToySupport, context, make_net, settings

SMALL: dict[str, Any] = {"levels": 1, "candidates": ("conv333", "identity"), "coarse_candidates": ()}

# the largest eigenvalue


@pytest.mark.parametrize(
    "values",
    [
        [5.0, 4.9, 1.0, 0.5, 0.0, -1.0],  # two that nearly agree
        [-9.0, -3.0, 0.2, 0.1, 0.0, 0.0],  # the largest in size is negative
        [-5.0, -4.0, -3.0, -2.0, -1.0, -0.5],
        [0.0] * 6,
    ],
)
def test_the_largest_eigenvalue_is_the_most_positive_one(values: list[float]) -> None:
    g = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T
    assert largest_eigenvalue(lambda v: matrix @ v, 6) == pytest.approx(max(values), rel=0.01, abs=1e-9)


def test_a_matrix_that_is_not_symmetric_counts_by_its_symmetric_part() -> None:
    g = torch.Generator().manual_seed(1)
    matrix = torch.randn(5, 5, generator=g, dtype=torch.float64)  # its own eigenvalues are complex
    assert torch.linalg.eigvals(matrix).imag.abs().max() > 0.1
    exact = float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
    assert largest_eigenvalue(lambda v: matrix @ v, 5, tolerance=0.0) == pytest.approx(exact, rel=1e-9)


def test_few_products_find_the_eigenvalue_of_many_parameters() -> None:
    g = torch.Generator().manual_seed(2)
    root = torch.randn(300, 40, generator=g, dtype=torch.float64)
    matrix, products = root @ root.T / 40 - 2 * torch.eye(300), [0]

    def product(vector: Tensor) -> Tensor:
        products[0] += 1
        return matrix @ vector

    assert largest_eigenvalue(product, 300) == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=0.01)
    assert products[0] <= 30


def test_the_hessian_of_a_network_is_that_of_torch_func() -> None:
    """All alphas of a small network: products, and the eigenvalue to 1 %."""
    few = {"levels": 2, "nodes": (1, 1), "candidates": ("conv333", "conv111", "identity"), "coarse_candidates": ()}
    support, net = ToySupport(2, dtype=torch.float64), make_net(dtype=torch.float64, spread=0.4, **few)
    batch, criterion, alphas = support.views(0), segmentation_loss(), net.alphas()

    def loss(values: Mapping[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(net, dict(values), (batch.images, batch.coords, STRIDES))
        return criterion(logits, batch.labels)

    sizes = [row.numel() for row in alphas.values()]
    at = torch.cat([row.detach() for row in alphas.values()])
    full = torch.autograd.functional.hessian(lambda v: loss(dict(zip(alphas, v.split(sizes), strict=True))), at)
    assert isinstance(full, Tensor) and 10 < len(full) < 40
    product, size = hessian_product(lambda: loss(alphas), list(alphas.values()))
    vector = torch.randn(size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(product(vector), full @ vector, rtol=1e-8, atol=1e-12)
    exact = float(torch.linalg.eigvalsh((full + full.T) / 2)[-1])
    assert exact > 1e-4
    assert largest_eigenvalue(product, size) == pytest.approx(exact, rel=0.01)


def test_parameters_that_the_loss_does_not_bend_have_rows_of_zeros() -> None:
    a, straight, unused = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    product, size = hessian_product(lambda: (a**3).sum() + straight.sum(), [straight, a, unused])
    assert product(torch.ones(size, dtype=torch.float64)).tolist() == [0.0, 0.0, 6.0, 6.0, 0.0, 0.0]
    flat, size = hessian_product(lambda: straight.sum(), [straight])
    assert flat(torch.ones(size)).tolist() == [0.0, 0.0] and largest_eigenvalue(flat, size) == 0.0


# the rule that stops


def first_stop(values: Sequence[float], **given: Any) -> tuple[int, int] | None:
    """Return the measurement after which the search ends, and the one whose alphas are kept."""
    for last in range(len(values)):
        if (kept := stop_at(values[: last + 1], **given)) is not None:
            return last, kept
    return None


def test_the_search_ends_where_the_mean_of_five_has_grown_by_three_tenths_in_four() -> None:
    """By hand: 1 until 12, then 1.5, 2, 2.5: means of five are 1, 1.1, 1.3, 1.6 at 12, 13, 14, 15."""
    values = [1.0] * 13 + [1.5, 2.0, 2.5, 3.0]
    assert first_stop(values) == (15, 11)  # at 14 the quotient is 1.3, which is not larger
    assert first_stop(values[:15]) is None
    assert first_stop(values, ratio=1.29) == (14, 10)
    assert first_stop(values, lag=1, ratio=1.2) == (15, 14)
    assert first_stop(values, window=1) == (13, 9)


def test_the_warm_up_and_values_without_a_quotient_end_nothing() -> None:
    growing = [2.0**i for i in range(12)]
    assert first_stop(growing) == (10, 6) and first_stop(growing, warm_up=0) == (4, 0)
    assert first_stop(growing, warm_up=12) is None
    assert first_stop([0.0] * 12) is None and first_stop([-1.0] * 11 + [5.0]) is None
    assert first_stop([1.0] * 30) is None and first_stop([]) is None


# the end of a search


def alphas_of(net: SegmentationNet) -> dict[str, Tensor]:
    return {name: row.detach().clone() for name, row in net.alphas().items()}


class Stopping:
    """A regularizer that ends the search after an alpha step, and keeps alphas of its own."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, list[int]()

    def on(self, net: SegmentationNet, task: Any) -> None:
        return None

    def watch(self, net: SegmentationNet) -> Any:
        def watcher(moment: Any) -> dict[str, Tensor] | None:
            self.seen.append(moment.number)
            assert float(moment.loss().detach()) > 0 and moment.net.body.relaxed.generator is None
            if moment.number < self.after:
                return None
            return {name: torch.arange(row.numel(), dtype=row.dtype) for name, row in moment.net.alphas().items()}

        return watcher


@pytest.mark.parametrize(("num_scans", "level"), [(2, {}), (4, {}), (2, JOINT)])
def test_a_search_that_ends_early_trains_the_kept_genotype_for_the_rest(num_scans: int, level: dict[str, Any]) -> None:
    learner, part = DartsLearner(settings(steps=6, discretizer={"phase": 0.8}, **level)), Stopping(2)
    learner.regularizers.append(part)  # type: ignore[arg-type]
    net, support = make_net(), ToySupport(num_scans)
    report = learner.run(net, support.task(), context()).report
    assert part.seen == [1, 2] and len(report.losses) == 6 and report.genotype is not None
    assert report.genotype == genotype(net.body)
    assert all(torch.equal(row, torch.arange(row.numel(), dtype=row.dtype)) for row in net.alphas().values())
    assert len(report.alpha_losses) == 2


def test_r_darts_keeps_the_alphas_of_the_measurement_before_the_loss_got_sharp(monkeypatch: pytest.MonkeyPatch) -> None:
    series, calls = [1.0, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0], [0]

    def measure(product: Any, size: int, iterations: int) -> float:
        assert product(torch.ones(size)).shape == (size,)
        calls[0] += 1
        return series[calls[0] - 1]

    monkeypatch.setattr(r_darts, "largest_eigenvalue", measure)
    part = {"name": "r_darts", "warm_up": 2, "lag": 2, "window": 2}
    kept: list[dict[str, Tensor]] = []
    given = settings(steps=8, discretizer={"phase": 1.0, "max_steps": 0}, regularizers=[part])
    learner, net = DartsLearner(given), make_net(**SMALL)
    note = Stopping(99)
    original = note.watch

    def watch(net: SegmentationNet) -> Any:
        inner = original(net)

        def watcher(moment: Any) -> Any:
            kept.append(alphas_of(moment.net))
            return inner(moment)

        return watcher

    note.watch = watch  # type: ignore[method-assign]
    learner.regularizers.append(note)  # type: ignore[arg-type]
    learner.run(net, ToySupport(2).task(), context())
    # means of two: 1, 1, 1, 1, 1, 3: the sixth measurement ends the search, and the fourth is kept
    assert calls[0] == 6 == len(kept)
    assert all(torch.equal(row, kept[3][name]) for name, row in net.alphas().items())
    assert not all(torch.equal(row, kept[5][name]) for name, row in net.alphas().items())


def test_r_darts_measures_a_real_search() -> None:
    part = {"name": "r_darts", "warm_up": 0, "lag": 1, "window": 1, "ratio": 1e6, "every": 2}
    given = settings(steps=4, discretizer={"phase": 1.0}, regularizers=[part])
    report = DartsLearner(given).run(make_net(**SMALL), ToySupport(2).task(), context()).report
    assert len(report.alpha_losses) == 4 and report.genotype is not None
    without = settings(steps=4, discretizer={"phase": 1.0})
    plain = DartsLearner(without).run(make_net(**SMALL), ToySupport(2).task(), context()).report
    assert report.losses == plain.losses  # a measurement changes nothing


def test_skips_are_counted_by_cell() -> None:
    rows = {
        "down1/n0/s0": Row(("conv333", "identity")),
        "down1/n1/s0": Row(("conv333", "identity")),
        "up0/n0/s0": Row(("conv333", "skip_connect")),
        "up0/skip": Row(("skip", "none"), "gate"),
    }
    picks = {"down1/n0/s0": "identity", "down1/n1/s0": "identity", "up0/n0/s0": "skip_connect", "up0/skip": "skip"}
    found = skips_of(picks, rows, ("identity", "skip", "skip_connect"))
    assert dict(found) == {"down1": 2, "up0": 1}


@pytest.mark.parametrize(("limit", "moments"), [(1, 1), (2, None)])
def test_darts_plus_ends_when_a_cell_has_so_many_skips(limit: int, moments: int | None) -> None:
    net = make_net(candidates=("conv333", "identity"), coarse_candidates=())
    with torch.no_grad():
        for name, row in net.alphas().items():
            row.zero_()
            if name.endswith("enc0/n0/s0"):
                row[1] = 3.0  # one skip
    hooks_of = [REGULARIZERS.build("darts_plus", REGULARIZERS.entry("darts_plus").settings(limit=limit))]  # type: ignore[misc]
    net.body.relax(Relaxed())
    hooks = SearchHooks(hooks_of, net, ToySupport().task())
    assert genotype(net.body)["picks"]["enc0/n0/s0"] == "identity"
    before = alphas_of(net)
    assert hooks.ends(net, lambda: torch.zeros(())) == (moments == 1)
    assert all(torch.equal(row, before[name]) for name, row in net.alphas().items())


# refusals


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("r_darts", SOFT, "regularizer r_darts: it ends the search early.*Use discretizer.name argmax"),
        ("darts_plus", SOFT, "regularizer darts_plus: it ends the search early.*Use discretizer.name argmax"),
        ("fair_darts", {}, "fair_darts: its loss is one of sigmoids, the relaxation is softmax. Use relaxation.name sigmoid"),
        ("dirichlet_kl", {}, "dirichlet_kl: it limits Dirichlet distributions.*Use relaxation.name dirichlet"),
        ("beta_decay", {"relaxation": {"name": "sigmoid"}}, "beta_decay: its penalty limits a softmax.*leave beta_decay out"),
        (
            "sdarts",
            {"relaxation": {"name": "gdas"}},
            "sdarts: it perturbs the weights of all options.*Use relaxation.name softmax",
        ),
        (
            "cost",
            {"relaxation": {"name": "uniform"}, "discretizer": {"name": "evolution"}},
            "alphas do not move with relaxation uniform.*or use another relaxation",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_settings_are_read(part: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        settings(regularizers=[{"name": part}], **changes)


def test_a_search_that_is_too_short_to_end_early_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    settings(steps=20, discretizer={"phase": 0.5}, regularizers=[{"name": "r_darts"}])
    assert "regularizer r_darts has no effect: the search has 10 measurements, and the first 10 cannot end it" in caplog.text
    caplog.clear()
    settings(steps=20, discretizer={"phase": 0.5}, regularizers=[{"name": "r_darts", "warm_up": 4}])
    settings(steps=22, discretizer={"phase": 0.5, "max_steps": 0}, regularizers=[{"name": "r_darts"}])
    assert not caplog.text


def test_darts_plus_is_refused_on_a_space_without_skips_before_any_step() -> None:
    support, net = ToySupport(2), make_net(candidates=("conv333", "conv331"), coarse_candidates=())
    learner = DartsLearner(settings(regularizers=[{"name": "darts_plus"}]))
    with pytest.raises(ConfigError, match="darts_plus: no edge of this space has one of the options identity, skip"):
        learner.run(net, support.task(), context())
    assert support.requests == []


def test_each_regularizer_says_what_it_needs_and_refuses() -> None:
    for entry in REGULARIZERS.entries():
        if entry.name != "cost":
            assert entry.source and entry.needs and entry.refuses, entry.name
