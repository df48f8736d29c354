"""Scores of fits: SoTL-E, ridge and LOSO, against runs and solves made by hand; no fit reads the scans that judge it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metanas_med.learner import NonFiniteLossError, SgdSettings, build_learner, head
from metanas_med.learner.head import calibrate_scores
from metanas_med.learner.support import start_head, support_dice
from metanas_med.search.scores import build_score
from metanas_med.search.scores.loso import Loso, LosoSettings
from metanas_med.search.scores.ridge import Ridge, RidgeSettings
from metanas_med.search.scores.speed import SotlSettings, speed_of
from metanas_med.search.scores.subset import left_out, restricted
from metanas_med.space.network import SegmentationNet, sample_features

from ...learner.toy import CPU, SHAPE, STRIDES, ToyBatch, ToySupport, context, make_net, rng, settings
from .line import line

ALL = 4 * math.prod(SHAPE)  #: so many voxels that all of a scan are sampled


@dataclass
class Watched(ToySupport):
    """A support that notes which scans were read, and may lack annotations of some organs by scan."""

    read: list[int] = field(default_factory=list)
    lacks: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def pack(self, scans: Sequence[int], noise: float, g: torch.Generator | None) -> ToyBatch:
        self.read += scans
        made, missing = super().pack(scans, noise, g), tuple(self.lacks.get(i, ()) for i in scans)
        for labels, organs in zip(made.labels, missing, strict=True):
            labels[torch.isin(labels, torch.tensor(organs, dtype=labels.dtype))] = 0
        return replace(made, missing=missing if self.lacks else ())


class Bright(ToySupport):
    """Scans with little noise, on which a network that sees voxel by voxel suffices."""

    def scan(self, number: int) -> tuple[Tensor, Tensor]:
        image, labels = super().scan(number)
        return labels * 1.5 + 0.2 * (image - labels * 1.5), labels


def blind(net: SegmentationNet) -> SegmentationNet:
    """Return a network that sees no intensities."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.stem.kernel.zero_()
    return other


def test_the_speed_of_a_run_is_minus_the_mean_of_its_last_losses() -> None:
    assert speed_of([9.0, 5.0, 3.0, 2.0], 0.5) == -2.5
    assert speed_of([9.0, 5.0, 3.0], 0.01) == -3.0
    with pytest.raises(ValueError, match="without steps"):
        speed_of([])
    with pytest.raises(NonFiniteLossError):
        speed_of([1.0, math.nan])


def test_sotl_is_the_speed_of_a_run_of_its_learner() -> None:
    learner = settings(steps=4)
    score = build_score(SotlSettings(learner=learner, last=0.5))(make_net(), ToySupport().task(), context(4))
    losses = build_learner(learner).run(make_net(), ToySupport().task(), context(4)).report.losses
    assert score == -(losses[2] + losses[3]) / 2


def test_a_subset_of_a_task_reads_its_own_scans_only() -> None:
    support = Watched(num_scans=4)
    task = restricted(replace(support.task(), key="organ"), [3, 1])
    assert (task.num_scans, task.key) == (2, "")
    list(task.support.stream([(2, (0, 1)), (1, [1])]))
    task.support.views(0)
    assert set(support.read) == {3, 1} and support.requests == [(2, (3, 1)), (1, (1,))] and support.read[-1] == 3


@pytest.mark.parametrize(
    ("folds", "groups", "sizes"),
    [(0, (), [1] * 5), (2, (), [2, 3]), (9, (), [1] * 5), (0, (1, 1, 2, 2, 3), [1, 2, 2]), (2, (1, 1, 1, 1, 2), [1, 4])],
)
def test_every_scan_is_left_out_once_with_its_patient(folds: int, groups: tuple[int, ...], sizes: list[int]) -> None:
    found = left_out(5, folds, groups, rng())
    assert sorted(scan for scans in found for scan in scans) == list(range(5))
    assert sorted(map(len, found)) == sizes
    for scans in found if groups else ():
        assert {i for i in range(5) if groups[i] in {groups[scan] for scan in scans}} == set(scans)


def test_folds_need_two_patients_and_a_group_a_scan() -> None:
    assert left_out(1, 0, (), rng()) == left_out(3, 2, (7, 7, 7), rng()) == []
    with pytest.raises(ValueError, match="a group for each of 3 scans"):
        left_out(3, 0, (1, 2), rng())


@pytest.mark.parametrize("folds", [0, 2])
def test_loso_is_the_dice_of_runs_on_the_other_scans(folds: int) -> None:
    learner, support = settings(steps=2), Watched(num_scans=3)
    score = Loso(LosoSettings(learner=learner, folds=folds))
    found = score.by_scan(make_net(), support.task(), context(6))
    generator = rng(6)
    parts = left_out(3, folds, (), generator)
    seeds = generator.integers(2**62, size=len(parts))
    for scans, seed in zip(parts, seeds, strict=True):
        own = ToySupport(num_scans=3)
        others = restricted(own.task(), [i for i in range(3) if i not in scans])
        net = build_learner(learner).run(make_net(), others, replace(context(), generator=np.random.default_rng(int(seed)))).net
        for scan in scans:
            assert found[scan] == support_dice(net, restricted(own.task(), [scan]), CPU)


def test_no_fit_of_loso_reads_the_scans_that_judge_it(monkeypatch: pytest.MonkeyPatch) -> None:
    support, fits = Watched(num_scans=4), []
    fit = Loso._fit

    def noted(self: Loso, *given: Any) -> SegmentationNet:
        support.read.clear()
        net = fit(self, *given)
        fits.append(set(support.read))
        return net

    monkeypatch.setattr(Loso, "_fit", noted)
    Loso(LosoSettings(learner=settings(steps=1), groups=(0, 1, 1, 2))).by_scan(make_net(), support.task(), context())
    assert fits == [{1, 2, 3}, {0, 3}, {0, 1, 2}]


@pytest.mark.parametrize("name", ["ridge", "loso"])
@pytest.mark.parametrize("num_scans", [3, 5])
def test_a_network_that_sees_is_better_than_one_that_does_not(name: str, num_scans: int) -> None:
    task, net = Bright(num_scans=num_scans).task(), line(dtype=torch.float32)
    score = build_score(RidgeSettings(voxels=400) if name == "ridge" else LosoSettings(learner=SgdSettings(ridge_voxels=400)))
    assert score(net, task, context()) > score(blind(net), task, context()) + 0.2


@pytest.mark.parametrize("num_scans", [2, 3])
def test_ridge_is_the_closed_form_start_of_the_other_scans(num_scans: int) -> None:
    net, support = make_net("unet"), ToySupport(num_scans=num_scans, num_organs=2)
    found = Ridge(RidgeSettings(voxels=ALL)).by_scan(net, support.task(), context())
    for scan in range(num_scans):
        probe = copy.deepcopy(net)
        probe.start_task(1, 2)
        others = [i for i in range(num_scans) if i != scan]
        start_head(probe, support.task(), others, ALL, torch.Generator(), CPU)
        assert found[scan] == pytest.approx(support_dice(probe, restricted(support.task(), [scan]), CPU), abs=1e-3)


def test_ridge_is_a_brute_force_solve_without_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "LAMBDAS", (0.1,))
    net, support = make_net("unet"), ToySupport(num_scans=3)
    found = Ridge(RidgeSettings(voxels=ALL)).by_scan(net, support.task(), context())
    voxels = torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij")).flatten(1).T
    features, labels = [], []
    for scan in range(3):
        views = support.views(scan)
        with torch.no_grad():
            maps = net.features(views.images, STRIDES)
        features.append(sample_features(maps, views.coords, voxels, SHAPE).double().numpy())
        labels.append(views.labels[0].flatten().numpy())
    for scan in range(3):
        one, two = (i for i in range(3) if i != scan)
        left = [features[one] @ solve(features[two], labels[two]).T, features[two] @ solve(features[one], labels[one]).T]
        both = np.concatenate([labels[one], labels[two]])
        scores = torch.from_numpy(np.concatenate(left))
        _, scale, bias = calibrate_scores(scores, torch.from_numpy(both), torch.ones(len(both)))
        rows = solve(np.concatenate([features[one], features[two]]), both) * float(scale)
        prediction = (features[scan] @ rows.T + bias.numpy()).argmax(1)
        dice = 2 * np.sum((prediction == 1) & (labels[scan] == 1)) / (prediction.sum() + labels[scan].sum())
        assert found[scan] == pytest.approx(float(dice), abs=0.01)


def solve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the rows (2, F) of weighted ridge regression at strength 0.1: both classes weigh one half, the constant is free."""
    weights = np.where(y == 1, 0.5 / (y == 1).sum(), 0.5 / (y == 0).sum())
    targets = np.stack([np.where(y == k, 1.0, -1.0) for k in range(2)], 1)
    penalty = np.full(x.shape[1], 0.1)
    penalty[-1] = 1e-6
    root = np.sqrt(weights)[:, None]
    whole = np.concatenate([root * x, np.diag(np.sqrt(penalty))])
    return np.linalg.lstsq(whole, np.concatenate([root * targets, np.zeros((x.shape[1], 2))]), rcond=None)[0].T


def test_the_loss_of_the_scan_left_out_can_judge_ridge() -> None:
    task, net = Bright(num_scans=3).task(), line(dtype=torch.float32)
    score = build_score(RidgeSettings(voxels=400, judge="loss"))
    assert -1.0 < score(net, task, context()) < 0 and score(blind(net), task, context()) < score(net, task, context()) - 0.2


@pytest.mark.parametrize("name", ["ridge", "loso"])
def test_scans_that_annotate_some_organs_only(name: str) -> None:
    part = RidgeSettings(voxels=300) if name == "ridge" else LosoSettings(learner=settings(steps=1))
    score: Any = build_score(part)
    support = Watched(num_scans=3, num_organs=2, lacks={0: (2,), 1: (1, 2)})
    values = score.by_scan(make_net("unet"), support.task(), context())
    assert math.isnan(values[1]) and 0 <= min(values[0], values[2]) <= 1
    assert score(make_net("unet"), support.task(), context()) == pytest.approx((values[0] + values[2]) / 2)


@pytest.mark.parametrize("name", ["ridge", "loso"])
def test_scans_of_one_patient_are_judged_on_augmented_patches(name: str) -> None:
    part: Any = RidgeSettings(voxels=300, groups=(4, 4)) if name == "ridge" else None
    score: Any = build_score(part or LosoSettings(learner=settings(steps=1), groups=(4, 4)))
    support = Watched(num_scans=2)
    assert len(score.by_scan(make_net("unet"), support.task(), context())) >= 3
