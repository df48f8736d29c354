"""Ignored voxels in the arithmetic of a learner: losses and samples are those of the other voxels alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metanas_med.data.plan import Intensity, Plan
from metanas_med.ignored import IGNORED
from metanas_med.learner.coarse import _majority
from metanas_med.learner.head import sample_labels, sample_voxels
from metanas_med.learner.losses import batch_loss, mean_dice, organ_dice, segmentation_loss


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits (2, 3, 4, 5, 6), labels with 0 to 2, and which voxels are ignored."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, 6, generator=g, dtype=torch.float64)
    return logits, torch.randint(3, (2, 4, 5, 6), generator=g), torch.rand(2, 4, 5, 6, generator=g) < 0.4


@pytest.mark.parametrize("missing", [(), ((), (2,))])
def test_the_loss_is_that_of_the_known_voxels(missing: tuple[tuple[int, ...], ...]) -> None:
    """Against cross-entropy and Dice written out, and with a gradient of zero at ignored voxels."""
    logits, labels, ignored = made()
    if missing:  # an organ that is not annotated in a scan has no label there
        labels[1] = labels[1].where(labels[1] != 2, 0)
    logits.requires_grad_()
    found = batch_loss(segmentation_loss(), logits, labels.masked_fill(ignored, IGNORED), missing)
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient.movedim(1, -1)[ignored].any() and gradient.movedim(1, -1)[~ignored].any()
    p = logits.softmax(1)
    if missing:
        p = torch.cat([p[:1], torch.stack([p[1:, 0] + p[1:, 2], p[1:, 1], torch.zeros_like(p[1:, 0])], 1)])
    p, one_hot = p.movedim(1, -1)[~ignored], torch.nn.functional.one_hot(labels[~ignored], 3).double()
    entropy = -(p * one_hot).sum(-1).log().mean()
    dice = [(2 * (p * one_hot)[:, k].sum() + 1e-5) / (p[:, k].sum() + one_hot[:, k].sum() + 1e-5) for k in (1, 2)]
    assert float(found) == pytest.approx(float(entropy + 1 - torch.stack(dice).mean()), rel=1e-6)


def test_a_batch_without_a_known_voxel_says_nothing() -> None:
    logits = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    loss = segmentation_loss()(logits, torch.full((1, 2, 2, 2), IGNORED))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss) == 0 and not gradient.any()


def test_dice_is_that_of_the_known_voxels() -> None:
    logits, labels, ignored = made(1)
    masked = labels.masked_fill(ignored, IGNORED)
    shown = logits.argmax(1)
    for organ, value in organ_dice(logits, masked).items():
        t, p = (labels == organ)[~ignored], (shown == organ)[~ignored]
        assert value == pytest.approx(2 * float((t & p).sum()) / float(t.sum() + p.sum()))
    perfect = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    assert mean_dice(perfect, masked) == 1.0


@pytest.mark.parametrize("sample", [sample_voxels, sample_labels])
def test_ignored_voxels_are_never_sampled(sample: Any) -> None:
    _, labels, ignored = made(2)
    masked, g = labels[0].masked_fill(ignored[0], IGNORED), torch.Generator().manual_seed(0)
    where, weights = sample(masked, 500, g)
    assert IGNORED not in masked[tuple(where.T)].unique()
    assert float(weights.sum()) == pytest.approx(int((~ignored[0]).sum()))
    nothing, none = sample(torch.full((2, 2, 2), IGNORED), 50, g)
    assert nothing.shape == (0, 3) and none.shape == (0,)


def test_maps_are_resampled_with_their_ignored_voxels() -> None:
    plan = Plan((0, 1, 2), (2.0, 2.0, 2.0), (4, 4, 4), ((2, 2, 2),), (Intensity("robust"),))
    label = torch.zeros(8, 8, 8, dtype=torch.uint8)
    label[:4], label[4:6] = IGNORED, 1
    found = plan.apply_label(label.numpy(), (1.0, 1.0, 1.0), 1)
    assert (found[:2] == IGNORED).all() and (found[2] == 1).all() and (found[3] == 0).all()
    coarse = _majority(label[None].long(), (2, 2, 2))
    assert torch.equal(coarse[0].to(torch.uint8), found)
