"""Dense contrastive learning: the loss against closed forms and loops, its pairs, its memory, and what features learn from it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metanas_med.learner import FeatureLearner, FeatureSettings, NonFiniteLossError
from metanas_med.learner.contrastive import (
    ContrastSettings,
    contrastive_loss,
    episode_contrast,
    projection_sizes,
    start_projections,
)
from metanas_med.learner.head import sample_labels
from metanas_med.learner.observe import observe_labels
from metanas_med.space.network import NUM_POSITION, SegmentationNet

from .toy import CPU, SHAPE, ToySupport, context, make_net

FAST = FeatureSettings(steps=2, views=2, alpha_lr=0.0, diversity=0.0, contrast=ContrastSettings(width=4, voxels=24))


def learner(**changes: object) -> FeatureLearner:
    return FeatureLearner(FAST.model_copy(update=changes))


def drawn(n: int = 12, width: int = 5, num_labels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features (n, width) in float64 and labels (n,)."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=g, dtype=torch.float64), torch.arange(n) % num_labels


def by_loops(features: Tensor, labels: Tensor, temperature: float) -> float:
    """Return L_out of Khosla et al. (equation 2), as it is written, divided by the number of anchors."""
    z = [row / row.norm() for row in features]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        bottom = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in others)
        logs = [math.log(math.exp(float(z[i] @ z[p]) / temperature) / bottom) for p in positives]
        terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


def test_four_points_by_hand() -> None:
    """Two labels on two orthogonal axes: a positive at cosine 1, two negatives at cosine 0."""
    x = torch.tensor([[1.0, 0], [2, 0], [0, 3], [0, 0.5]])
    labels = torch.tensor([0, 0, 1, 1])
    assert float(contrastive_loss(x, labels, 1.0)) == pytest.approx(math.log(math.e + 2) - 1, rel=1e-6)
    assert float(contrastive_loss(x, labels, 0.5)) == pytest.approx(math.log(math.e**2 + 2) - 2, rel=1e-6)
    # crossed labels: every positive is at cosine 0, and one of both negatives at cosine 1
    assert float(contrastive_loss(x, torch.tensor([0, 1, 0, 1]), 1.0)) == pytest.approx(math.log(math.e + 2), rel=1e-6)


@pytest.mark.parametrize("n", [4, 30])
def test_equal_features_give_the_logarithm_of_the_number_of_others(n: int) -> None:
    loss = contrastive_loss(torch.ones(n, 3, dtype=torch.float64), torch.arange(n) % 2, 0.1)
    assert float(loss) == pytest.approx(math.log(n - 1), rel=1e-12)


def test_opposite_clusters_have_a_closed_form() -> None:
    """m samples at each of two opposite points: log(m - 1 + m exp(-2 / t))."""
    for m, t in ((3, 0.7), (10, 0.1), (2, 0.01)):
        x = torch.tensor([[1.0, 0]] * m + [[-1.0, 0]] * m, dtype=torch.float64)
        labels = torch.tensor([0] * m + [1] * m)
        assert float(contrastive_loss(x, labels, t)) == pytest.approx(math.log(m - 1 + m * math.exp(-2 / t)), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.33, 1.0])
def test_the_loss_is_that_of_the_loops(temperature: float) -> None:
    for seed, num_labels in ((0, 3), (1, 2), (2, 11)):
        x, labels = drawn(seed=seed, num_labels=num_labels)
        assert float(contrastive_loss(x, labels, temperature)) == pytest.approx(by_loops(x, labels, temperature), rel=1e-12)


def test_the_gradient_is_exact() -> None:
    x, labels = drawn(num_labels=5)
    assert torch.autograd.gradcheck(lambda features: contrastive_loss(features, labels, 0.2), x.requires_grad_())


def test_which_samples_are_pairs() -> None:
    """At a high temperature t, t (loss - log(n - 1)) is the mean cosine of all pairs less that of positives, by anchor."""
    x, labels = drawn(n=10)
    labels[9] = 7  # alone
    volumes = torch.tensor([0, 1]).repeat_interleave(5)  # the same label in either volume is a positive
    positives = {i: [j for j in range(10) if j != i and labels[j] == labels[i]] for i in range(9)}
    assert any({int(volumes[j]) for j in chosen} == {0, 1} for chosen in positives.values())
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    gaps = [(cosine[i].sum() - 1) / 9 - cosine[i, chosen].mean() for i, chosen in positives.items()]
    t = 1e5
    found = t * (float(contrastive_loss(x, labels, t)) - math.log(9))
    assert found == pytest.approx(float(torch.stack(gaps).mean()), rel=1e-3)


def test_moved_negatives_and_swapped_labels_change_the_loss() -> None:
    x, labels = drawn()
    whole = float(contrastive_loss(x, labels, 0.5))
    moved = x.clone()
    moved[1] = x[0] + 0.01 * x[1]  # label 1 moves onto a sample of label 0
    assert float(contrastive_loss(moved, labels, 0.5)) > whole
    swapped = labels.clone()
    swapped[[0, 1]] = labels[[1, 0]]
    assert abs(float(contrastive_loss(x, swapped, 0.5)) - whole) > 1e-3
    # names and order of labels do not matter, nor does the length of a feature
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert float(contrastive_loss(7 * x[order], 5 - labels[order], 0.5)) == pytest.approx(whole, rel=1e-12)


def test_a_lone_label_is_no_anchor_but_a_negative() -> None:
    x, labels = drawn(n=9, num_labels=2)
    labels[4] = 7
    assert float(contrastive_loss(x, labels, 0.5)) == pytest.approx(by_loops(x, labels, 0.5), rel=1e-12)
    closer = x.clone()
    closer[4] = x[0]
    assert float(contrastive_loss(closer, labels, 0.5)) > float(contrastive_loss(x, labels, 0.5))


@pytest.mark.parametrize("labels", [[], [3], [2, 2, 2], [0, 1, 2, 3]])
def test_nothing_to_contrast_is_zero_with_a_graph(labels: list[int]) -> None:
    x = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = contrastive_loss(x, torch.tensor(labels, dtype=torch.int64), 0.1)
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, x)[0].any()


def test_a_low_temperature_and_large_or_no_features_stay_finite() -> None:
    x, labels = drawn()
    x = (1e6 * x).float()
    x[0] = 0
    x.requires_grad_()
    loss = contrastive_loss(x, labels, 1e-3)
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(torch.autograd.grad(loss, x)[0]).all())


def test_voxels_are_shared_equally_among_the_labels_of_a_patch() -> None:
    labels = torch.zeros(12, 10, 8, dtype=torch.int64)
    labels[:4, :4], labels[8:, 8:], labels[0, 0, 0] = 1, 2, 3
    g = torch.Generator().manual_seed(0)
    where, weights = sample_labels(labels, 80, g)
    found = labels[tuple(where.T)]
    assert torch.bincount(found).tolist() == [20, 20, 20, 1]  # a label smaller than its share gives all of its voxels
    assert len(torch.unique(where, dim=0)) == len(where)
    for k in range(4):
        assert float(weights[found == k].sum()) == pytest.approx(int((labels == k).sum()))
    where, _ = sample_labels(labels, 80, g, background=False)
    assert torch.bincount(labels[tuple(where.T)]).tolist() == [0, 26, 26, 1]
    assert sample_labels(torch.zeros(2, 2, 2, dtype=torch.int64), 80, g, background=False)[0].shape == (0, 3)


@pytest.mark.parametrize(("missing", "background"), [((), [True, True]), ((2,), [True, False]), ("all", [True, True])])
def test_background_that_may_show_other_labels_is_no_label(missing: Any, background: list[bool]) -> None:
    """Of scans without annotations of an organ, unless there are no others."""
    net, support = make_net(), ToySupport(num_organs=2)
    net.start_task(1, 2)
    halves = [support.pack([number], 0.0, None) for number in range(2)]
    halves[1] = replace(halves[1], missing=((2,),) if missing else ())
    if missing == "all":
        halves[0] = replace(halves[0], missing=((1,),))
    seen = observe_labels(net, support.task(), halves, 24, torch.Generator().manual_seed(0), CPU)
    assert [bool((s.labels == 0).any()) for s in seen.samples] == background


def test_every_level_counts_and_no_position() -> None:
    net, support = make_net(), ToySupport()
    net.start_task(1, 1)
    halves = (support.pack([0], 0.0, None), support.pack([1], 0.0, None))
    seen = observe_labels(net, support.task(), halves, 24, torch.Generator().manual_seed(0), CPU)
    projections = start_projections(projection_sizes(net.head.widths, 4), torch.Generator().manual_seed(1))
    x, labels, _ = seen.part(slice(None))
    grads = torch.autograd.grad(episode_contrast(net, seen, projections, 0.2), [s.features for s in seen.samples])
    assert all(bool(g[:, :-NUM_POSITION].any(0).all()) and not g[:, -NUM_POSITION:].any() for g in grads)
    start, values = 0, []
    for level, width in enumerate(net.head.widths):
        part = x[:, start : start + width].detach().numpy()
        first, bias, second, last = (
            projections[f"projection/{level}/{name}"].numpy() for name in ("first", "first_bias", "second", "second_bias")
        )
        hidden = np.maximum(part @ first.T + bias, 0) @ second.T + last
        values.append(by_loops(torch.from_numpy(hidden).double(), labels, 0.2))
        start += width
    assert float(episode_contrast(net, seen, projections, 0.2).detach()) == pytest.approx(np.mean(values), rel=1e-5)


def test_rows_of_the_head_do_not_move_and_projections_are_no_weights() -> None:
    net, made = make_net(), learner()
    before = {n: p.detach().clone() for n, p in net.state_dict().items()}
    names = list(net.weights())
    made.run(net, ToySupport().task(), context(), objective="contrast")
    assert list(net.weights()) == names and not any("projection" in n for n in net.state_dict())
    after = net.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before if n.startswith("head."))
    assert sum(not torch.equal(after[n], before[n]) for n in before) > 3
    assert any(n.startswith("value.projection/") for n in made.state())
    assert not any("head." in n or "rows" in n for n in made.state())


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_run_of_both_objectives_resumes_to_the_bit(optimizer: str) -> None:
    tasks = [ToySupport(num_scans=3, num_organs=2, seed=n).task() for n in range(4)]
    plan = ["head", "contrast", "contrast", "head"]

    def steps(made: FeatureLearner, net: SegmentationNet, which: range) -> list[list[float]]:
        return [made.run(net, tasks[n], context(n), objective=plan[n]) for n in which]  # type: ignore[arg-type]

    whole, net = learner(optimizer=optimizer), make_net()
    losses = steps(whole, net, range(4))
    for stop in (1, 2):  # before and after the first contrast
        first, second, other = learner(optimizer=optimizer), learner(optimizer=optimizer), make_net()
        found = steps(first, other, range(stop))
        second.load({n: t.clone() for n, t in first.state().items()})
        assert found + steps(second, other, range(stop, 4)) == losses
        assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
        assert set(whole.state()) == set(second.state())
        assert all(torch.equal(t, second.state()[n]) for n, t in whole.state().items())


def test_alphas_take_their_turn() -> None:
    nets = []
    for steps in (1, 2):
        nets.append(make_net(spread=0.5))
        learner(steps=steps, alpha_lr=0.05, alpha_every=2).run(nets[-1], ToySupport().task(), context(), objective="contrast")
    one, two = nets
    assert all(torch.equal(one.weights()[n], two.weights()[n]) for n in one.weights())
    assert sum(not torch.equal(one.alphas()[n], two.alphas()[n]) for n in one.alphas()) > 0.5 * len(one.alphas())


def test_an_episode_that_fails_leaves_moments_and_projections() -> None:
    net, made = make_net(), learner()
    made.run(net, ToySupport().task(), context(), objective="contrast")
    before = copy.deepcopy(made.state())
    with torch.no_grad():
        net.stem.kernel.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError):
        made.run(net, ToySupport().task(), context(), objective="contrast")
    assert before.keys() == made.state().keys() and all(torch.equal(t, before[n]) for n, t in made.state().items())


def test_another_width_starts_other_projections() -> None:
    made = learner()
    made.run(make_net(), ToySupport().task(), context(), objective="contrast")
    other = learner(contrast=ContrastSettings(width=6, voxels=24))
    other.load(made.state())
    other.run(make_net(), ToySupport().task(), context(), objective="contrast")
    assert other.state()["value.projection/0/second"].shape == (6, 6)


class Appearances(ToySupport):
    """Scans that share a label map, a plate and a box, and give each label another of three brightnesses."""

    def scan(self, number: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        labels = torch.zeros(SHAPE, dtype=torch.int64)
        start = int(torch.randint(0, SHAPE[0] - 2, (), generator=g))
        labels[start : start + 2] = 1
        labels[tuple(slice(s, s + 4) for s in [int(torch.randint(0, n - 4, (), generator=g)) for n in SHAPE])] = 2
        g.manual_seed(1000 * self.seed + number)
        brightness = torch.tensor([-1.0, 0.0, 1.0])[torch.randperm(3, generator=g)]
        image = brightness[labels] + 0.2 * torch.randn(SHAPE, generator=g)
        return ((image - image.mean()) / image.std())[None], labels


def cosines(net: SegmentationNet, seeds: range) -> tuple[float, float]:
    """Return the mean cosine of centred features in two appearances: of voxels of one label, and of two; over all levels."""
    within, across = [], []
    for seed in seeds:
        support = Appearances(num_organs=2, seed=seed)
        halves = [support.pack([number], 0.0, None) for number in range(2)]
        net.start_task(1, 2)
        with torch.no_grad():
            seen = observe_labels(net, support.task(), halves, 90, torch.Generator().manual_seed(seed), CPU)
        one, two = seen.samples
        same = one.labels[:, None] == two.labels[None]
        both = torch.cat([one.features, two.features])[:, :-NUM_POSITION]
        for part in (both - both.mean(0)).split(net.head.widths, 1):
            first, second = torch.nn.functional.normalize(part, dim=1).split([len(one.labels), len(two.labels)])
            cosine = first @ second.T
            within.append(float(cosine[same].mean()))
            across.append(float(cosine[~same].mean()))
    return float(np.mean(within)), float(np.mean(across))


def test_features_of_a_label_are_alike_in_two_appearances_of_unseen_volumes() -> None:
    net, made = make_net(), learner(views=4, lr=5e-3, contrast=ContrastSettings(width=16, voxels=90))
    unseen = range(900, 906)
    fresh = cosines(net, unseen)
    for seed in range(16):
        made.run(net, Appearances(num_organs=2, seed=seed).task(), context(seed), objective="contrast")
    within, across = cosines(net, unseen)
    assert within > 0.2 and across < -0.1
    assert within - across > fresh[0] - fresh[1] + 0.2
