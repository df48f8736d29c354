"""Partly annotated scans: the marginal loss against its closed form, and the closed-form head without their background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metanas_med.learner import DartsLearner, FeatureLearner, FeatureSettings, support
from metanas_med.learner.head import VoxelSample, complete_classes, sample_voxels
from metanas_med.learner.losses import mean_dice, organ_dice, segmentation_loss
from metanas_med.learner.observe import observe

from .toy import CPU, JOINT, ToyBatch, ToySupport, context, make_net, settings

LOSS = segmentation_loss()
SMOOTH = 1e-5


def toy(organs: int = 3, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits (B, K + 1, 3, 2, 2) in float64 and labels (B, 3, 2, 2)."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, organs + 1, 3, 2, 2, generator=g, dtype=torch.float64)
    return logits, torch.randint(organs + 1, (batch, 3, 2, 2), generator=g)


def without(labels: Tensor, missing: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return labels whose voxels of organs that are not annotated are background, as in a scan's label map."""
    labels = labels.clone()
    for own, organs in zip(labels, missing, strict=True):
        for k in organs:
            own[own == k] = 0
    return labels


def by_hand(logits: Tensor, labels: Tensor, missing: tuple[tuple[int, ...], ...]) -> tuple[float, Tensor]:
    """Return the marginal loss and its gradient by logits, from their formulas.

    Cross-entropy: -log of the probability of the target, where the background's is that of {background, missing organs}.
    Dice: over the samples of the batch in which an organ is annotated, then the mean over organs that are annotated in any.
    """
    p, voxels = logits.softmax(1), labels.numel()
    value, by_p = 0.0, torch.zeros_like(p)
    gradient = torch.zeros_like(p)
    for b, organs in enumerate(missing):
        merged = [0, *organs]
        for x, y, z in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape[1:])).tolist():
            t, own = int(labels[b, x, y, z]), p[b, :, x, y, z]
            target = merged if t == 0 else [t]
            share = own[target].sum()
            value += -float(share.log()) / voxels
            hot = torch.zeros_like(own)
            hot[target] = own[target] / share
            gradient[b, :, x, y, z] += (own - hot) / voxels
    num_organs = logits.shape[1] - 1
    known = [k for k in range(1, num_organs + 1) if any(k not in organs for organs in missing)]
    for k in known:
        samples = [b for b, organs in enumerate(missing) if k not in organs]
        q, t = p[samples, k], (labels[samples] == k).double()
        both, size = (q * t).sum(), q.sum() + t.sum()
        value += (1 - float((2 * both + SMOOTH) / (size + SMOOTH))) / len(known)
        slope = -(2 * t * (size + SMOOTH) - (2 * both + SMOOTH)) / (size + SMOOTH) ** 2 / len(known)
        for place, b in enumerate(samples):
            by_p[b, k] += slope[place]
    return value, gradient + p * (by_p - (p * by_p).sum(1, keepdim=True))


@pytest.mark.parametrize("missing", [((2,), ()), ((1, 3), (3,)), ((2,), (2,)), ((1, 2), (1, 2)), ((), ())])
def test_the_marginal_loss_and_its_gradient_equal_the_closed_form(missing: tuple[tuple[int, ...], ...]) -> None:
    logits, labels = toy()
    labels = without(labels, missing)
    expected, slope = by_hand(logits, labels, missing)
    logits.requires_grad_(True)
    loss = LOSS(logits, labels, missing)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, slope, atol=1e-9, rtol=1e-6)


def test_the_loss_ignores_how_the_background_is_split_with_an_organ_that_is_not_annotated() -> None:
    missing = ((2,), ())
    logits, labels = toy()
    labels = without(labels, missing)
    total = torch.logsumexp(logits[0, [0, 2]], 0)
    moved = logits.clone()
    share = torch.rand(total.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved[0, 0], moved[0, 2] = total + share.log(), total + (1 - share).log()
    assert float(LOSS(moved, labels, missing)) == pytest.approx(float(LOSS(logits, labels, missing)), abs=1e-12)
    assert abs(float(LOSS(moved, labels)) - float(LOSS(logits, labels))) > 1e-3  # as if it were absent
    moved[1, 0], moved[1, 2] = logits[1, 2], logits[1, 0]  # the other sample is annotated completely
    assert abs(float(LOSS(moved, labels, missing)) - float(LOSS(logits, labels, missing))) > 1e-3


def test_complete_annotations_have_the_same_loss_bit_for_bit() -> None:
    logits, labels = (t.float() if t.is_floating_point() else t for t in toy())
    assert torch.equal(LOSS(logits, labels), LOSS(logits, labels, ()))
    assert torch.equal(LOSS(logits, labels), LOSS(logits, labels, ((), ())))


def test_a_batch_without_any_annotated_organ_has_no_gradient() -> None:
    logits, labels = toy(organs=1)
    logits.requires_grad_(True)
    loss = LOSS(logits, torch.zeros_like(labels), ((1,), (1,)))
    assert float(loss.detach()) == 0.0 and not torch.autograd.grad(loss, logits)[0].any()


def test_dice_counts_annotated_organs_alone() -> None:
    labels = torch.tensor([[[[0, 1]]], [[[0, 2]]]])
    logits = F.one_hot(torch.tensor([[[[2, 1]]], [[[2, 2]]]]), 3).permute(0, 4, 1, 2, 3).float()
    assert organ_dice(logits, labels) == {1: 1.0, 2: pytest.approx(2 / 4)}
    assert organ_dice(logits, labels, ((2,), ())) == {1: 1.0, 2: pytest.approx(2 / 3)}
    assert organ_dice(logits, labels, ((2,), (2,))) == {1: 1.0}
    assert mean_dice(logits, labels, ((2,), ())) == pytest.approx((1 + 2 / 3) / 2)
    assert mean_dice(logits, labels, ((1, 2), (1, 2))) == 1.0


def test_voxels_can_be_sampled_without_the_background() -> None:
    labels = torch.zeros(8, 8, 8, dtype=torch.int64)
    labels[:2], labels[2, :4] = 1, 2
    where, weights = sample_voxels(labels, 40, torch.Generator().manual_seed(0), background=False)
    found = labels[tuple(where.T)]
    assert [int((found == k).sum()) for k in range(3)] == [0, 10, 10]
    assert float(weights[found == 1].sum()) == pytest.approx(128) and float(weights[found == 2].sum()) == pytest.approx(32)
    where, weights = sample_voxels(labels[4:], 40, torch.Generator().manual_seed(0), background=False)
    assert where.shape == (0, 3) and weights.shape == (0,)
    # as before in scans that are annotated completely
    one, other = (sample_voxels(labels, 40, torch.Generator().manual_seed(0), **given) for given in ({}, {"background": True}))
    assert torch.equal(one[0], other[0])


def sample(labels: list[int]) -> VoxelSample:
    return VoxelSample(torch.randn(len(labels), 4), torch.tensor(labels), torch.ones(len(labels)))


def test_classes_that_few_scans_annotate_count_for_all_scans() -> None:
    """Otherwise an organ that one of four scans annotates would look four times rarer than it is."""
    samples = [sample([0, 0, 1, 2]), sample([1]), sample([1]), sample([1])]
    missing = [(), (2,), (2,), (2,)]
    found = complete_classes(samples, missing, 2)
    assert [s.weights.tolist() for s in found] == [[4.0, 4.0, 1.0, 4.0], [1.0], [1.0], [1.0]]
    same = complete_classes(samples, [()] * 4, 2)
    assert all(one is other for one, other in zip(samples, same, strict=True))


@dataclass
class PartlySupport(ToySupport):
    """Toy scans with two organs; the second is not annotated in the scans of ``partly``."""

    partly: tuple[int, ...] = ()

    def scan(self, number: int) -> tuple[Tensor, Tensor]:
        image, labels = super().scan(number)
        return image, labels.masked_fill(labels == 2, 0) if number in self.partly else labels

    def pack(self, scans: Sequence[int], noise: float, g: torch.Generator | None) -> ToyBatch:
        missing = tuple((2,) if scan in self.partly else () for scan in scans)
        return replace(super().pack(scans, noise, g), missing=missing if any(missing) else ())


@pytest.mark.parametrize(
    ("partly", "folds", "all_background"), [((), 3, False), ((1,), 3, False), ((1, 2), 6, False), ((0, 1, 2), 3, True)]
)
def test_the_closed_form_head_takes_no_background_of_partly_annotated_scans(
    partly: tuple[int, ...], folds: int, all_background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless there is no other; a single complete scan is supplemented by patches of it, so that rows are judged on background."""
    source, seen = PartlySupport(num_scans=3, num_organs=2, partly=partly), []
    solve = support.closed_form_rows
    monkeypatch.setattr(support, "closed_form_rows", lambda samples, k: seen.extend(samples) or solve(samples, k))
    net = make_net()
    net.start_task(1, 2)
    support.start_head(net, source.task(), range(3), 200, torch.Generator().manual_seed(0), CPU)
    assert len(seen) == folds
    assert [bool((s.labels == 0).any()) for s in seen[:3]] == [all_background or i not in partly for i in range(3)]
    assert all((s.labels == 2).any() for i, s in enumerate(seen[:3]) if i not in partly)


@dataclass
class UntoldSupport(PartlySupport):
    """The same scans without a word about what is not annotated."""

    def pack(self, scans: Sequence[int], noise: float, g: torch.Generator | None) -> ToyBatch:
        return ToySupport.pack(self, scans, noise, g)


def test_a_run_learns_an_organ_from_the_scans_that_annotate_it() -> None:
    dice = []
    for kind in (PartlySupport, UntoldSupport):
        source = kind(num_scans=3, num_organs=2, seed=2, partly=(1, 2))
        learner = DartsLearner(settings(steps=24, batch=3, lr=0.02, head_lr=0.02, **JOINT))
        adapted = learner.run(make_net(), source.task(), context())
        source.partly = ()
        dice.append(support.dice_by_organ(adapted.net, source.task(), CPU))
    told, untold = dice
    assert told[1] > 0.7 and told[2] > 0.8 and untold[2] < 0.4


def test_feature_steps_solve_their_rows_without_the_background_of_partly_annotated_scans() -> None:
    source = PartlySupport(num_scans=4, num_organs=2, partly=(1, 3))
    net, learner = make_net(), FeatureLearner(FeatureSettings(steps=3, voxels=60))
    net.start_task(1, 2)
    halves = [source.pack(scans, 0.0, None) for scans in ((0, 1), (3, 3))]
    seen = observe(net, source.task(), halves, 60, torch.Generator().manual_seed(0), CPU)
    assert seen.missing == ((), (2,), (2,), (2,))
    # the second half has no other background
    assert [bool((s.labels == 0).any()) for s in seen.samples] == [True, False, True, True]
    losses = learner.run(net, source.task(), context())
    assert len(losses) == 3 and all(loss > 0 for loss in losses)
