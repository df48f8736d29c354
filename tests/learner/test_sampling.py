"""Relaxations that sample or leave channels out: exact gradients, what runs, and what stays as it was."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metanas_med.learner import DartsLearner
from metanas_med.learner.relaxations import RELAXATIONS
from metanas_med.space.blocks.mixture import Mixture
from metanas_med.space.blocks.operations import Source
from metanas_med.space.choice import Choice, Relaxed

from .toy import STRIDES, ToySupport, context, make_net
from .toy import settings as make_settings

ROW = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
NAMES = ("conv333", "conv331", "conv111", "max_pool")


def build(name: str, **given: Any) -> Any:
    entry = RELAXATIONS.entry(name)
    assert entry.settings
    return entry.factory(entry.settings(**given))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(cin: int = 4, cout: int = 4, names: tuple[str, ...] = NAMES) -> Mixture:
    return Mixture(names, cin, cout, 3, generator(1)).double()


def source(channels: int = 4, stride: tuple[int, int, int] = (1, 1, 1)) -> Source:
    return Source(torch.randn(2, channels, 5, 4, 3, dtype=torch.float64, generator=generator(2), requires_grad=True), stride)


def count_runs(ops: Mixture) -> Counter[str]:
    runs: Counter[str] = Counter()
    for name, op in ops.items():
        op.register_forward_hook(lambda *_, name=name: runs.update([name]))
    return runs


@pytest.mark.parametrize("seed", range(4))
def test_gdas_has_the_gradient_of_its_formula_and_runs_one_candidate(seed: int) -> None:
    """dL/da_k = <dL/dout, op_c(x)> p_c (d_ck - p_k) / tau, with the p of the same noise."""
    ops, row = mixture(), ROW.clone().requires_grad_()
    tau = 3.0
    choice = build("gdas", tau_start=tau, tau_end=tau).weigh({"e": row}, 0.0, generator(seed))
    runs = count_runs(ops)
    out = ops(source(), choice, "e")
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=generator(9))
    (found,) = torch.autograd.grad(out, row, upstream)
    noise = -torch.empty(4).exponential_(generator=generator(seed)).log().double()
    p = torch.softmax((torch.log_softmax(ROW, 0) + noise) / tau, 0)
    c = int(p.argmax())
    op = list(ops.values())[c]
    inner = (upstream * op(source(), op.gain)).sum()
    want = torch.stack([inner * p[c] * (float(c == k) - p[k]) / tau for k in range(4)])
    assert torch.allclose(found, want, rtol=1e-10, atol=1e-12)
    assert sum(runs.values()) == 2 and set(runs) == {NAMES[c]}  # once in the mixture, once in this test
    assert torch.equal(choice.rows["e"].detach(), torch.eye(4, dtype=torch.float64)[c])


def test_gdas_runs_one_candidate_an_edge_of_a_supernet() -> None:
    """Counted by hooks in every space of cells whose candidates run one by one."""
    net = make_net(edge="darts")
    counts: Counter[str] = Counter()
    edges = {name: m for name, m in net.body.named_modules() if type(m).__name__ == "Edge" and len(m) > 1}  # type: ignore[arg-type]
    for name, edge in edges.items():
        for op in edge.children():
            op.register_forward_hook(lambda *_, name=name: counts.update([name]))
    net.body.relax(Relaxed(build("gdas"), 0.5, generator=generator()))
    net.features(torch.randn(1, 1, 10, 9, 6), STRIDES)
    assert counts and set(counts.values()) == {1}


@pytest.mark.parametrize("seed", range(4))
def test_proxyless_has_the_straight_through_gradient_of_two_options(seed: int) -> None:
    """dL/da_i = sum_j <dL/dout, op_j(x)> q_j (d_ij - q_i) over both; the inactive output is detached."""
    ops, row = mixture(), ROW.clone().requires_grad_()
    relaxation = build("proxyless")
    choice = relaxation.judge({"e": row}, 0.0, generator(seed))
    pair = sorted(choice.active["e"])
    (inactive,) = choice.detached["e"]
    active = next(option for option in pair if option != inactive)
    x = source()
    out = ops(x, choice, "e")
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=generator(9))
    every = dict(ops.named_parameters())
    grads = torch.autograd.grad(out, [row, x.x, *every.values()], upstream, allow_unused=True)
    outputs = [op(source(), op.gain) for op in ops.values()]
    q = torch.softmax(ROW[pair], 0)
    want = torch.zeros(4, dtype=torch.float64)
    for i, first in enumerate(pair):
        want[first] = sum((upstream * outputs[j]).sum() * q[m] * (float(i == m) - q[i]) for m, j in enumerate(pair))  # type: ignore[assignment]
    assert torch.allclose(grads[0], want, rtol=1e-10, atol=1e-12)
    assert torch.allclose(out, outputs[active], rtol=0, atol=0)
    touched = {name.split(".")[0] for name, grad in zip(every, grads[2:], strict=True) if grad is not None}
    assert touched <= {NAMES[active]}


def test_proxyless_leaves_other_probabilities_and_weights_as_they_were() -> None:
    """After an alpha step the probabilities of options that were not drawn stay to 1e-7, whatever the optimizer does to them."""
    relaxation = build("proxyless")
    row = nn.Parameter(ROW.clone())
    optimizer = torch.optim.AdamW([row], 0.3, betas=(0.9, 0.99), weight_decay=0.1)
    for seed in range(6):
        choice = relaxation.judge({"e": row}, 0.0, generator(seed))
        optimizer.zero_grad()
        (choice.rows["e"] * torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)).sum().backward()
        before = row.detach().clone()
        assert row.grad is not None
        optimizer.step()
        relaxation.after_step({"e": row}, {"e": before}, {"e": row.grad != 0})
        drawn = set(choice.active["e"])
        others = [option for option in range(4) if option not in drawn]
        old, new = torch.softmax(before, 0), torch.softmax(row.detach(), 0)
        assert torch.allclose(old[others], new[others], rtol=0, atol=1e-7)
        assert not torch.allclose(old[sorted(drawn)], new[sorted(drawn)], rtol=0, atol=1e-4)


def test_inactive_paths_get_no_gradient_and_move_no_optimizer_state() -> None:
    """A weight step of one path leaves weights and moments of all other candidates untouched."""
    settings = make_settings(steps=2, relaxation={"name": "proxyless"}, alpha_gradient={"name": "first_order"}, lr_decay="none")
    net, seen = make_net(edge="darts"), []
    optimizers: list[Any] = []
    from metanas_med.learner import weights as module

    class Watched(module.WeightSteps):
        def step(self, net: Any, batch: Any, optimizer: Any, step: int, joined: Any = None) -> float:
            before = {name: p.detach().clone() for name, p in net.named_parameters()}
            value = super().step(net, batch, optimizer, step, joined)
            unused = {name for name, p in net.body.weights().items() if p.grad is None}
            moved = {name for name, p in net.named_parameters() if not torch.equal(before[name], p)}
            seen.append((unused, moved, {n for n, p in net.body.weights().items() if optimizer.state(p)}))
            optimizers.append(optimizer)
            return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metanas_med.learner.darts.WeightSteps", Watched)
        DartsLearner(settings).run(net, ToySupport(5).task(), context())
    searched = [each for each in seen if each[0]]
    assert searched
    unused, moved, states = searched[0]  # of the first step: later ones run other paths
    assert len(unused) > 20
    assert not {f"body.{name}" for name in unused} & moved
    assert not unused & states


def test_strict_fairness_runs_each_option_once() -> None:
    """m paths, m the options of the longest row: each of its options exactly once; shorter rows cycle."""
    rows = {"a": torch.zeros(4), "b": torch.zeros(3), "c": torch.zeros(2)}
    paths = build("uniform", fair=True).paths(rows, 0.0, generator(3))
    assert len(paths) == 4
    counts = {name: Counter(path.active[name][0] for path in paths) for name in rows}
    assert counts["a"] == dict.fromkeys(range(4), 1)
    assert sorted(counts["b"].values()) == [1, 1, 2] and counts["c"] == {0: 2, 1: 2}
    assert all(
        torch.equal(path.rows[name], torch.eye(len(row))[path.active[name][0]]) for path in paths for name, row in rows.items()
    )


def test_gradients_of_fair_paths_are_summed() -> None:
    """One weight step takes the sum of the gradients of its paths: against a loop over them by hand."""
    from metanas_med.learner.episode import LearnerReport
    from metanas_med.learner.weights import WeightSteps

    settings = make_settings(
        steps=1, relaxation={"name": "uniform", "fair": True}, optimizer="sgd", clip=1e9, discretizer={"name": "none"}
    )
    net, task = make_net(edge="darts"), ToySupport(2).task()
    net.start_task(1, 1)
    steps = WeightSteps(settings, task, context(), LearnerReport())
    batch = next(iter(task.support.stream([(2, (0, 1))])))
    net.body.relax(Relaxed(build("uniform", fair=True), 0.0, generator=generator(5)))
    weights = dict(net.weights())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
        steps.step(net, batch, steps.optimizer(net), 0)
    found = {name: p.grad for name, p in weights.items()}
    want: dict[str, Tensor] = {}
    alphas = {name.removeprefix("body.alphas."): row for name, row in net.alphas().items()}
    for path in build("uniform", fair=True).paths(alphas, 0.0, generator(5)):
        net.body.relax(Relaxed(fixed=path))
        grads = torch.autograd.grad(steps.loss(net, batch), list(weights.values()), allow_unused=True)
        for name, grad in zip(weights, grads, strict=True):
            if grad is not None:
                want[name] = want.get(name, torch.zeros_like(grad)) + grad
    assert want and {name for name, grad in found.items() if grad is not None} == set(want)
    assert all(torch.allclose(g, want[name], rtol=1e-5, atol=1e-7) for name, g in found.items() if g is not None)


@pytest.mark.parametrize("edge", ["merged", "darts"])
def test_partial_channels_with_k_1_and_equal_betas_are_darts_to_the_bit(edge: str) -> None:
    """Also with rows of edge weights; those of a node sum to 1."""
    first, second = make_net(edge=edge), make_net(edge=edge, edge_weights=True)
    second.load_state_dict(first.state_dict(), strict=False)
    x = torch.randn(1, 1, 10, 9, 6, generator=generator())
    first.body.relax(Relaxed(build("softmax", tau_end=1.0), 0.5))
    second.body.relax(Relaxed(build("partial", k=1), 0.5))
    for one, other in zip(first.features(x, STRIDES), second.features(x, STRIDES), strict=True):
        assert torch.equal(one, other)
    edges = [row for name, row in second.body.probabilities().items() if name.endswith("/edges")]
    assert edges and all(float(row.sum().detach()) == pytest.approx(1.0, abs=1e-6) for row in edges)
    second.body.relax(Relaxed(build("partial", k=2), 0.5))
    assert not torch.equal(first.features(x, STRIDES)[0], second.features(x, STRIDES)[0])


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1)])
def test_partial_channels_run_leading_parts_and_pass_the_rest(stride: tuple[int, int, int]) -> None:
    """Against a formula: mixture of kernels' leading parts on C/K channels, max-pooled rest, a shuffle by K."""
    ops, x, k = mixture(8, 8, ("conv333", "conv111")), source(8, stride), 4
    p = torch.softmax(ROW[:2], 0)
    out = ops(x, Choice({"e": p}, partial=k), "e")
    weights = [op.weight[:2, :2] for op in ops.values()]  # type: ignore[union-attr, index]
    one = nn.functional.conv3d(x.x[:, :2], weights[0], None, stride, 1)
    other = nn.functional.conv3d(x.x[:, :2], weights[1], None, stride)
    rest = nn.functional.max_pool3d(x.x[:, 2:], stride, stride, ceil_mode=True)
    joined = torch.cat([p[0] * one + p[1] * other, rest], 1)
    shuffled = joined.view(2, k, 2, *joined.shape[2:]).transpose(1, 2).reshape(joined.shape)
    assert torch.allclose(out, shuffled, rtol=1e-12, atol=1e-12)


def test_edge_and_mixture_agree_on_partial_channels() -> None:
    """Merged and separate edges give the same, with alone-running candidates as well."""
    names = ("conv333", "conv331", "max_pool")
    nets = [make_net(edge=edge, candidates=names, coarse_candidates=(), base_width=8) for edge in ("merged", "darts")]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(1, 1, 10, 9, 6, generator=generator())
    for net in nets:
        net.double()
        net.body.relax(Relaxed(build("partial", k=4), 0.5))
    for one, other in zip(*(net.features(x.double(), STRIDES) for net in nets), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_dirichlet_weights_have_the_mean_and_the_pathwise_gradient_of_their_distribution() -> None:
    """Mean: concentration over its sum; the gradient of E[theta] by alpha against that of the mean, over many draws."""
    relaxation, row = build("dirichlet"), ROW.clone().requires_grad_()
    concentration = torch.nn.functional.elu(row) + 1
    mean = concentration / concentration.sum()
    assert torch.allclose(relaxation.weigh({"e": row}, 0.0).rows["e"], mean, atol=1e-5)
    assert torch.equal(
        relaxation.weigh({"e": row}, 0.0, generator(1)).rows["e"], relaxation.weigh({"e": row}, 0.0, generator(1)).rows["e"]
    )
    draw = generator(0)
    total = torch.stack([relaxation.weigh({"e": row}, 0.0, draw).rows["e"] for _ in range(4000)]).mean(0)
    assert torch.allclose(total, mean, atol=0.02)
    (found,) = torch.autograd.grad(total[0], row)
    (want,) = torch.autograd.grad(mean[0], row)
    assert torch.allclose(found, want, atol=0.02)


def test_sigmoid_weights_do_not_compete() -> None:
    rows = {"e": ROW}
    assert torch.equal(build("sigmoid").weigh(rows, 0.0).rows["e"], torch.sigmoid(ROW))


@pytest.mark.parametrize("name", RELAXATIONS.names())
def test_without_a_generator_a_relaxation_is_deterministic_and_keeps_the_order_of_alphas(name: str) -> None:
    """What is reported and decoded has no noise."""
    relaxation = build(name)
    first, second = (relaxation.weigh({"e": ROW}, 0.7).rows["e"] for _ in range(2))
    assert torch.equal(first, second) and first.argsort().tolist() == ROW.argsort().tolist()


def test_a_relaxation_with_alpha_steps_of_its_own_refuses_single_level() -> None:
    with pytest.raises(ValueError, match="first_order"):
        make_settings(relaxation={"name": "proxyless"}, alpha_gradient={"name": "single_level"})


def test_alphas_stay_for_the_first_share_of_a_search() -> None:
    """``alpha_from``: no alpha step before it, and the same weights of a run that has none yet."""
    settings = make_settings(steps=6, alpha_from=0.5, discretizer={"name": "argmax", "phase": 1.0, "max_steps": 0})
    report = DartsLearner(settings).run(make_net(), ToySupport(5).task(), context()).report
    assert len(report.alpha_losses) == 3
