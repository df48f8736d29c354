"""Choice by perturbation (DARTS-PT): what the network loses without an option decides, not its alpha."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med.learner import Context, DartsLearner, Task
from metanas_med.learner.discretizers import DISCRETIZERS
from metanas_med.learner.discretizers.perturbation import PerturbationSettings, left_out, masked, views_loss
from metanas_med.learner.discretizers.threshold import ThresholdSettings
from metanas_med.learner.relaxations.sigmoid import Sigmoid, SigmoidSettings
from metanas_med.space import genotype as genotype_of
from metanas_med.space import get_space
from metanas_med.space.base import Row
from metanas_med.space.choice import Relaxed
from metanas_med.space.network import SegmentationNet
from metanas_med.studies.planted.space import PlantedSettings

from .toy import ToySupport, context, make_net, rng, settings
from .watch import state_of

SIDE = 8
SKIP = 0.02  #: factor of the skip's output: with it the mixture is nearly the other option's
SMALL: dict[str, Any] = {"levels": 2, "candidates": ("conv333", "identity"), "coarse_candidates": ()}
OPTIONS = ("identity", "max_pool", "conv333")


@dataclass(frozen=True)
class PlantedBatch:
    images: Tensor
    coords: Tensor
    labels: Tensor
    missing: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Planted:
    """Volumes of noise, labelled by a network of known operations: a support."""

    images: Tensor
    labels: Tensor

    def views(self, scan: int) -> PlantedBatch:
        return self.batch([scan])

    def batch(self, scans: Sequence[int]) -> PlantedBatch:
        return PlantedBatch(self.images[list(scans)], torch.zeros(len(scans), 3, SIDE, SIDE, SIDE), self.labels[list(scans)])

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[PlantedBatch]:
        for size, scans in requests:
            yield self.batch(list(scans)[:size])


def planted(seed: int) -> tuple[SegmentationNet, Task, dict[str, str]]:
    """Return a supernet whose alphas prefer the skip, a task, and the operations of the network that made the labels.

    The supernet has the weights of that network. On every edge the skip's output is scaled down, and its alpha leads: such a mixture
    gives nearly what the planted operation alone gives, because norms undo the scale of the sum.
    """
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SegmentationNet(get_space(PlantedSettings(base_width=4, num_edges=3, candidates=OPTIONS)).build(None, g))
    rows = net.body.rows()
    picks = {name: 1 + int(torch.randint(2, (), generator=g)) for name in rows}
    state = net.body.state_dict()
    teacher = net.body.space.build(picks)
    teacher.load_state_dict({name: state[name] for name in teacher.state_dict()})
    images = torch.randn(3, 1, SIDE, SIDE, SIDE, generator=g)
    with torch.no_grad():
        features = torch.cat(net.with_body(teacher).features(images, ()), 1)
        row = torch.randn(features.shape[1], generator=g)
        scores = torch.einsum("c,bcxyz->bxyz", row, features)
        net.head.background.zero_()
        net.head.organ.zero_()
        net.head.organ[: len(row)] = row * 4.0 / scores.std()
        net.head.organ[-1] = -scores.median() * 4.0 / scores.std()
        for name, picked in picks.items():
            net.body.edges[name]["identity"].gain.fill_(SKIP)  # type: ignore[index, operator, union-attr]
            alphas = getattr(net.body.alphas, name)
            alphas.zero_()
            alphas[0], alphas[picked] = 2.0, 1.0
    task = Task(Planted(images, (scores > scores.median()).long()), 3, 1, 1, (), (SIDE, SIDE, SIDE))
    return net, task, {name: OPTIONS[option] for name, option in picks.items()}


def found_by(net: SegmentationNet, task: Task, seed: int = 0, **given: Any) -> dict[str, str]:
    part = DISCRETIZERS.build("perturbation", PerturbationSettings(**given))
    found = part.genotype(net, task, Context(rng(seed)))
    assert found is not None
    return dict(found["picks"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_right_where_a_scaled_skip_makes_argmax_wrong(seed: int) -> None:
    net, task, right = planted(seed)
    assert set(genotype_of(net.body)["picks"].values()) == {"identity"}
    assert found_by(net, task, seed, tune=0) == right


@pytest.mark.seeds
def test_it_is_right_on_all_edges_of_nearly_all_seeds_with_tuning_in_between() -> None:
    right = 0
    for seed in range(10):
        net, task, planned = planted(seed)
        right += found_by(net, task, seed, tune=2) == planned
    assert right >= 9


def test_none_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absence hurts most here, and that of the convolution next."""
    names = ("identity", "conv333", "none")
    net = make_net(**{**SMALL, "candidates": names})
    rows = net.body.rows()

    def loss(net: SegmentationNet, *_: Any) -> float:
        lost = {rows[name].options[int(p.argmin())] for name, p in net.body.probabilities().items() if p.detach().min() == 0}
        return 9.0 if "none" in lost else 5.0 if "conv333" in lost else 1.0

    monkeypatch.setattr("metanas_med.learner.discretizers.perturbation.views_loss", loss)
    monkeypatch.setattr("metanas_med.learner.discretizers.perturbation.masked", lone(masked))
    task = Task(ToySupport(1), 1, 1, 1, (), (SIDE, SIDE, SIDE))
    picks = found_by(net, task, tune=0)
    assert {option for name, option in picks.items() if rows[name].options == names} == {"conv333"}


def lone(masked: Callable[..., Relaxed]) -> Callable[..., Relaxed]:
    """Return ``masked`` without the rows that were decided before, while an option is left out."""
    return lambda relaxed, decided, without=None: masked(relaxed, {} if without else decided, without)


def test_without_an_option_the_others_keep_their_proportions_and_the_sum() -> None:
    row = torch.tensor([0.5, 0.3, 0.2])
    assert left_out(row, 0).tolist() == pytest.approx([0.0, 0.6, 0.4])
    assert left_out(torch.tensor([0.9, 0.6]), 1).tolist() == pytest.approx([1.5, 0.0])  # sigmoids
    assert left_out(torch.tensor([0.0, 1.0, 0.0]), 1).tolist() == pytest.approx([0.5, 0.0, 0.5])


def test_masks_are_what_the_network_runs() -> None:
    net = make_net(spread=0.5)
    rows: Mapping[str, Row] = net.body.rows()
    first, other, *_ = rows
    net.body.relax(masked(Relaxed(), {first: 1}, (other, 0)))
    choice = net.body.choose()
    assert choice.options(first, len(rows[first].options)) == [1] and float(choice.rows[first][1].detach()) == 1.0
    assert 0 not in choice.options(other, len(rows[other].options))
    assert float(choice.rows[other].detach().sum()) == pytest.approx(1.0)


def test_every_row_is_decided_once_in_random_order_and_inputs_last() -> None:
    """Seen in the tuning step that follows each decision: decided rows are one-hot there."""
    support, net = ToySupport(1), make_net(spread=0.3, **SMALL)
    rows, seen = net.body.rows(), list[str]()

    def note(body: Any, given: Any) -> None:
        if torch.is_grad_enabled():
            whole = [name for name, row in body.choose().rows.items() if float(row.detach().max()) == 1.0 and name not in seen]
            assert len(whole) == 1
            seen.extend(whole)

    net.body.register_forward_pre_hook(note)
    orders = []
    for seed in (0, 1):
        seen.clear()
        net.body.relax(Relaxed())
        found_by(net, support.task(), seed, tune=1, batch=1)
        orders.append(tuple(seen))
    assert orders[0] != orders[1]
    for order in orders:
        types = [rows[name].type for name in order]
        assert set(order) == set(rows) and "pair" in types and types == sorted(types, key=lambda kind: kind == "pair")


def test_alphas_stay_and_weights_are_tuned() -> None:
    support, net = ToySupport(1), make_net(spread=0.3, **SMALL)
    net.start_task(1, 1)
    relaxed = Relaxed()
    net.body.relax(relaxed)
    before = state_of(net)
    task = support.task()
    start = views_loss(net, task, context())
    found_by(net, task, tune=3, lr=5e-3)
    after = state_of(net)
    assert net.body.relaxed is relaxed
    assert all(torch.equal(before[name], after[name]) for name in net.alphas())
    assert any(not torch.equal(before[name], after[name]) for name in net.weights())
    assert views_loss(net, task, context()) < start
    tuned = state_of(net)
    found_by(net, task, tune=0)
    assert all(torch.equal(value, tuned[name]) for name, value in state_of(net).items())


def test_a_run_with_it_ends_with_its_genotype() -> None:
    given = settings(steps=4, discretizer={"name": "perturbation", "phase": 0.5, "tune": 1}, stepped="decoder")
    net, support = make_net(**SMALL), ToySupport(2)
    encoder = {name: value for name, value in state_of(net).items() if name.startswith("body.cells.enc0")}
    report = DartsLearner(given).run(net, support.task(), context()).report
    assert report.genotype is not None and len(report.alpha_losses) == 2 and len(report.losses) == 4
    assert encoder and all(torch.equal(value, state_of(net)[name]) for name, value in encoder.items())


def test_its_entry_states_source_and_cost() -> None:
    entry = DISCRETIZERS.entry("perturbation")
    assert "2108.04392" in entry.source and "forward pass per option" in entry.costs


def test_the_threshold_leaves_out_what_is_improbable_where_a_row_can() -> None:
    net = make_net(**SMALL)
    rows = net.body.rows()
    net.body.relax(Relaxed(Sigmoid(SigmoidSettings())))
    with torch.no_grad():
        for name, row in net.alphas().items():
            row.fill_(-1.0)
            row[int(name.endswith("residual"))] = 1.0  # a sigmoid of 0.73 for residuals and skips
    part = DISCRETIZERS.build("threshold", ThresholdSettings())
    found = part.genotype(net, ToySupport().task(), context())
    assert found is not None
    gates = {name: option for name, option in found["picks"].items() if rows[name].type == "gate"}
    assert gates and set(gates.values()) <= {"plain", "none"}
    assert net.body.relaxed.adjust is None
    with torch.no_grad():
        for row in net.alphas().values():
            row.add_(4.0)
    argmax = genotype_of(net.body)
    assert part.genotype(net, ToySupport().task(), context()) == argmax and {"residual", "skip"} <= set(argmax["picks"].values())
