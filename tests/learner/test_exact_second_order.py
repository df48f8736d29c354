"""The exact second-order gradient of alphas: a closed form, finite differences, and ``torch.func`` on a network of two cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from metanas_med.learner import DartsLearner, LearnerReport
from metanas_med.learner.alpha_gradients import ALPHA_GRADIENTS
from metanas_med.learner.alpha_gradients.exact import exact_second_order_gradient
from metanas_med.learner.alpha_gradients.second_order import second_order_gradient
from metanas_med.learner.relaxations.partial import PartialChannels, PartialSettings
from metanas_med.learner.relaxations.sigmoid import Sigmoid, SigmoidSettings
from metanas_med.learner.stepped import at_values
from metanas_med.learner.weights import WeightSteps
from metanas_med.space import Body, Picks, Row, SpaceSettings
from metanas_med.space.blocks.cell import Cell, CellPlan
from metanas_med.space.blocks.edge import merge_reads
from metanas_med.space.choice import Relaxation, Relaxed
from metanas_med.space.network import SegmentationNet

from .toy import SOFT, ToySupport, context, make_net, settings
from .watch import run

OPTIONS: tuple[str, ...] = ("conv333", "conv331", "identity", "max_pool")
RATE = 0.05


class TwoCellsSpace:
    """Two cells of two nodes in a row; every edge is searched."""

    def __init__(self) -> None:
        self.settings = SpaceSettings(name="two cells", base_width=3, max_width=3, levels=1)
        edges = ({"s0": OPTIONS}, {"s0": OPTIONS, "n0": OPTIONS})
        self.plans = [CellPlan(f"cell{i}", "enc", 0, 3, {"s0": 3}, edges, False, True) for i in range(2)]

    def rows(self) -> Mapping[str, Row]:
        names = ((plan.name, node, before) for plan in self.plans for node, edges in enumerate(plan.nodes) for before in edges)
        return {f"{cell}/n{node}/{before}": Row(OPTIONS) for cell, node, before in names}

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> Body:
        return TwoCells(self, picks)


class TwoCells(Body):
    def __init__(self, space: TwoCellsSpace, picks: Picks | None) -> None:
        super().__init__(space, picks)
        self.cells = nn.ModuleList(Cell(plan, 3, False) for plan in space.plans)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        choice = self.choose()
        for part in self.cells:
            cell = cast(Cell, part)
            reads = cell.reads(choice)
            merge_reads([read for edges in reads.values() for read in edges.values()])
            x, _ = cell({"s0": x}, (1, 1, 1), choice, reads)
        return [x]


class Two:
    """A network of two cells in float64 with a batch that trains and one that judges."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = SegmentationNet(TwoCellsSpace().build(None)).double()
            with torch.no_grad():
                for row in self.net.alphas().values():
                    row.normal_(0.0, 0.5)
        support = ToySupport(2, dtype=torch.float64)
        self.net.start_task(1, 1)
        self.net.double()
        self.batches = [support.views(0), support.views(1)]
        self.steps = WeightSteps(settings(), support.task(), context(), LearnerReport())
        self.named = self.net.weights()
        self.weights, self.alphas = list(self.named.values()), list(self.net.alphas().values())

    def train(self, values: Sequence[Tensor] | None = None) -> Tensor:
        return self.steps.loss(at_values(self.net, self.named, values), self.batches[0])

    def judge(self, values: Sequence[Tensor] | None = None) -> Tensor:
        return self.steps.loss(at_values(self.net, self.named, values), self.batches[1])

    def by_torch_func(self) -> Tensor:
        """Return the gradient by transforms of ``torch.func`` alone."""
        weights = {name: w.detach() for name, w in self.named.items()}

        def loss(which: int, values: dict[str, Tensor], alphas: dict[str, Tensor]) -> Tensor:
            call = lambda *x: torch.func.functional_call(self.net, {**values, **alphas}, x)  # noqa: E731
            return self.steps.loss(call, self.batches[which])

        def unrolled(alphas: dict[str, Tensor]) -> Tensor:
            slopes = torch.func.grad(lambda w: loss(0, w, alphas))(weights)
            return loss(1, {name: w - RATE * slopes[name] for name, w in weights.items()}, alphas)

        found = torch.func.grad(unrolled)({name: a.detach() for name, a in self.net.alphas().items()})
        return torch.cat(list(found.values()))


@pytest.fixture(scope="module")
def exact() -> Tensor:
    two = Two()
    before = [w.detach().clone() for w in two.weights]
    found, value = exact_second_order_gradient(two.train, two.judge, two.weights, two.alphas, RATE)
    assert all(torch.equal(w, b) for w, b in zip(two.weights, before, strict=True)) and value > 0
    return torch.cat(found)


@pytest.mark.parametrize("step", [1e-3, 1e-4, 1e-5])
def test_finite_differences_agree_on_a_network_of_two_cells(step: float, exact: Tensor) -> None:
    """Larger steps cross kinks of leaky ReLU and max pooling: at 1e-2 the two differ by 0.7 %."""
    two = Two()
    found, _ = second_order_gradient(two.train, two.judge, two.weights, two.alphas, RATE, step)
    assert float((torch.cat(found) - exact).norm() / exact.norm()) < max(1e-9, step**2)  # far below 1e-3
    first = torch.cat(torch.autograd.grad(two.judge(), two.alphas))
    assert float((first - exact).norm() / exact.norm()) > 0.05  # what is compared is not small


@pytest.mark.parametrize(
    "relaxation", [PartialChannels(PartialSettings(k=3)), Sigmoid(SigmoidSettings())], ids=["partial", "sigmoid"]
)
def test_they_agree_under_other_relaxations(relaxation: Relaxation) -> None:
    """Views of a candidate's leading channels must follow the moved weights, too."""
    two = Two()
    two.net.body.relax(Relaxed(relaxation))
    exact, _ = exact_second_order_gradient(two.train, two.judge, two.weights, two.alphas, RATE)
    found, _ = second_order_gradient(two.train, two.judge, two.weights, two.alphas, RATE, 1e-4)
    assert float((torch.cat(found) - torch.cat(exact)).norm() / torch.cat(exact).norm()) < 1e-6


def test_transforms_of_torch_func_give_the_same(exact: Tensor) -> None:
    torch.testing.assert_close(Two().by_torch_func(), exact, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_a_quadratic_is_the_one_derived_by_hand() -> None:
    """``train = w'Aw/2 + a'Bw`` and ``judge = |w - c|^2/2 + a'd + |a|^2/2``: ``w1 = w - r(Aw + B'a)``; the gradient of alphas is
    ``d + a - r B (w1 - c)``."""
    g = torch.Generator().manual_seed(1)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    root, b, c, d = make(5, 5), make(3, 5), make(5), make(3)
    w, a = make(5).requires_grad_(), make(3).requires_grad_()
    curved = root @ root.T

    def train(values: Sequence[Tensor] | None = None) -> Tensor:
        x = w if values is None else values[0]
        return x @ curved @ x / 2 + a @ b @ x

    def judge(values: Sequence[Tensor] | None = None) -> Tensor:
        x = w if values is None else values[0]
        return (x - c).square().sum() / 2 + a @ d + a.square().sum() / 2

    moved = w - 0.1 * (curved @ w + b.T @ a)
    by_hand = d + a - 0.1 * b @ (moved - c)
    at = float(((moved - c).square().sum() / 2 + a @ d + a.square().sum() / 2).detach())
    (found,), value = exact_second_order_gradient(train, judge, [w], [a], 0.1)
    assert float((found - by_hand).detach().abs().max()) < 1e-10
    assert value == pytest.approx(at, abs=1e-10)


def test_weights_and_alphas_that_nothing_reads_are_left_out() -> None:
    w, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    a, unread = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)

    def loss(values: Sequence[Tensor] | None = None) -> Tensor:
        return ((w if values is None else values[0]) * a).square().sum()

    found, _ = exact_second_order_gradient(loss, loss, [w, other], [a, unread], 0.1)
    assert found[0].any() and not found[1].any()


def test_a_search_takes_it_by_its_name() -> None:
    support, found = ToySupport(2, dtype=torch.float64), []
    for name in ("second_order", "second_order_exact"):
        given = settings(steps=1, lr=0.05, alpha_gradient={"name": name}, **SOFT)
        watch, adapted = run(given, support, make_net(dtype=torch.float64, spread=0.2))
        assert adapted.report.gradient_evaluations == 4 + 1
        found.append((torch.cat(watch.taken[0].used), torch.cat(watch.taken[0].exact)))
    (differences, first), (exact, _) = found
    # a task's rows are float32, whose rounding the differences magnify
    assert float((differences - exact).norm()) < 0.5 * float((first - exact).norm()) and not torch.equal(differences, exact)


def test_all_losses_of_an_alpha_step_see_the_same_noise() -> None:
    """Otherwise a difference of two gradients would be one of two draws."""

    class Twice:
        bilevel, evaluations, exact = True, 1, True

        def split(self, num_scans: int, generator: Any) -> Any:
            return ALPHA_GRADIENTS.build("first_order", settings().alpha_gradient).split(num_scans, generator)

        def take(self, train: Any, judge: Any, weights: Any, alphas: Any, rate: float) -> Any:
            values.append([float(loss().detach()) for loss in (train, judge, train, judge)])
            return [torch.zeros_like(a) for a in alphas], 0.0

    values: list[list[float]] = []
    learner = DartsLearner(settings(steps=2, lr=1e-9, relaxation={"name": "dirichlet"}, **SOFT))
    learner.alpha_gradient = Twice()  # type: ignore[assignment]
    learner.run(make_net(), ToySupport(1).task(), context())
    assert all(found[:2] == found[2:] for found in values) and values[0] != values[1]


def test_its_list_entry_says_what_it_costs() -> None:
    entry = ALPHA_GRADIENTS.entry("second_order_exact")
    assert "1806.09055" in entry.source and "memory" in entry.costs
