"""The closed-form head: ridge regression against numpy, sampled features against full resolution, the choice of the strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metanas_med.learner import head
from metanas_med.learner.head import (
    LAMBDAS,
    CalibrationLoss,
    VoxelSample,
    calibrate_scores,
    closed_form_rows,
    ridge,
    sample_voxels,
)
from metanas_med.learner.losses import mean_dice
from metanas_med.space.network import NUM_POSITION, Head, sample_features


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy(seed: int, organs: int = 1, noise: float = 0.5, count: int = 400, size: int = 4) -> VoxelSample:
    """Return voxels whose features lean towards their class, the last feature being the constant."""
    g = generator(seed)
    labels = torch.randint(organs + 1, (count,), generator=g)
    centers = torch.randn(organs + 1, size, generator=generator(99)) * 2
    features = centers[labels] + noise * torch.randn(count, size, generator=g)
    return VoxelSample(torch.cat([features, torch.ones(count, 1)], 1), labels, torch.ones(count))


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_ridge_solves_the_normal_equations(strength: float) -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(size=(50, 6)), np.ones((50, 1))], 1)
    y, b = random.normal(size=(50, 3)), random.uniform(0.1, 2.0, 50)
    gram, moment = torch.tensor((x * b[:, None]).T @ x / 50), torch.tensor((x * b[:, None]).T @ y / 50)
    rows = ridge(gram, moment, strength).numpy()
    # the same problem as least squares: weighted rows, and one more row for each penalty
    penalty = np.diag(np.sqrt([strength] * 6 + [1e-6]) * np.sqrt(50))
    stacked = np.concatenate([np.sqrt(b)[:, None] * x, penalty])
    target = np.concatenate([np.sqrt(b)[:, None] * y, np.zeros((7, 3))])
    expected = np.linalg.lstsq(stacked, target, rcond=None)[0].T
    np.testing.assert_allclose(rows, expected, rtol=1e-6, atol=1e-8)


def test_voxels_are_drawn_by_class() -> None:
    labels = torch.zeros(20, 20, 20, dtype=torch.int64)
    labels[:2, :2, :2] = 1  # 8 voxels
    labels[10:, 10:, 10:] = 2
    where, weights = sample_voxels(labels, 400, generator())
    found = labels[tuple(where.T)]
    assert [int((found == k).sum()) for k in range(3)] == [200, 8, 100]
    for k in range(3):  # each stands for as many voxels as it should
        assert float(weights[found == k].sum()) == pytest.approx(float((labels == k).sum()), rel=1e-4)
    for only in (torch.zeros(6, 6, 6, dtype=torch.int64), torch.ones(6, 6, 6, dtype=torch.int64)):
        assert len(sample_voxels(only, 50, generator())[0]) == 50


def test_classes_are_balanced() -> None:
    """Doubling the voxels of one class leaves the solution as it was: only the balance decides."""
    sample = toy(0, organs=2, count=600)
    rows, _ = closed_form_rows([sample, sample], 2)
    extra = sample.labels == 1
    more = VoxelSample(
        torch.cat([sample.features, sample.features[extra]]),
        torch.cat([sample.labels, sample.labels[extra]]),
        torch.cat([torch.where(extra, 0.5, 1.0), torch.full((int(extra.sum()),), 0.5)]),
    )
    again, _ = closed_form_rows([more, more], 2)
    torch.testing.assert_close(again, rows, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("sizes", [(300, 12), (300, 12, 12), (40, 200, 7)])
def test_rows_that_judge_a_scan_are_balanced_by_the_others(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scans that show an organ in very different sizes, too: each solve is weighted least squares on the other scans alone."""
    samples = []
    for seed, size in enumerate(sizes):
        whole = toy(seed, count=2000, noise=2.0)
        kept = torch.cat([torch.nonzero(whole.labels == 0)[:300, 0], torch.nonzero(whole.labels == 1)[:size, 0]])
        samples.append(VoxelSample(whole.features[kept], whole.labels[kept], whole.weights[kept]))
    seen: list[torch.Tensor] = []

    def note(scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        seen.append(scores)
        return calibrate_scores(scores, labels, weights)

    monkeypatch.setattr(head, "calibrate_scores", note)
    rows, _ = closed_form_rows(samples, 1)
    for strength, scores in zip(LAMBDAS, seen, strict=True):
        expected = []
        for left_out in range(len(samples)):
            rest = [s for i, s in enumerate(samples) if i != left_out]
            x, labels = torch.cat([s.features for s in rest]).double(), torch.cat([s.labels for s in rest])
            counts = torch.bincount(labels).double()
            b = (0.5 / counts)[labels][:, None]
            y = 2.0 * F.one_hot(labels, 2).double() - 1
            penalty = torch.diag(torch.tensor([strength] * (x.shape[1] - 1) + [1e-6], dtype=torch.float64))
            solved = torch.linalg.solve(x.T @ (b * x) + penalty, x.T @ (b * y))
            expected.append(samples[left_out].features.double() @ solved)
        torch.testing.assert_close(scores, torch.cat(expected), rtol=1e-8, atol=1e-9)
    assert torch.isfinite(rows).all()


def test_the_strength_is_chosen_on_scans_left_out() -> None:
    # many features of pure noise, few voxels: fitting the noise does not carry over to another scan
    noisy = []
    for seed in range(3):
        g = generator(seed)
        labels = torch.arange(40) % 2
        signal = 0.5 * (2.0 * labels - 1)[:, None] + torch.randn(40, 1, generator=g)
        features = torch.cat([signal, torch.randn(40, 60, generator=g), torch.ones(40, 1)], 1)
        noisy.append(VoxelSample(features, labels, torch.ones(40)))
    assert closed_form_rows(noisy, 1)[1] == max(LAMBDAS)
    # a small but faithful feature is only used where it is hardly shrunk
    clean = []
    for seed in range(3):
        labels = torch.arange(200) % 2
        small = 0.02 * (2.0 * labels - 1)[:, None] + 0.002 * torch.randn(200, 1, generator=generator(seed))
        large = torch.randn(200, 3, generator=generator(seed + 10))
        clean.append(VoxelSample(torch.cat([small, large, torch.ones(200, 1)], 1), labels, torch.ones(200)))
    assert closed_form_rows(clean, 1)[1] == min(LAMBDAS)


@pytest.mark.parametrize("scans", [2, 5])
@pytest.mark.parametrize("organs", [1, 3])
def test_separable_classes_are_separated(scans: int, organs: int) -> None:
    samples = [toy(seed, organs, noise=0.05) for seed in range(scans)]
    rows, strength = closed_form_rows(samples, organs)
    assert rows.shape == (organs + 1, 5) and rows.dtype == torch.float32 and strength in LAMBDAS
    fresh = toy(77, organs, noise=0.05)
    logits = fresh.features @ rows.T
    assert mean_dice(logits.T[None, :, :, None, None], fresh.labels[None, :, None, None]) == 1.0
    confident = logits.softmax(1).gather(1, fresh.labels[:, None]).mean()
    assert 0.8 < float(confident) <= 1.0  # logits, not scores between -1 and 1


def judged(organs: int, absent: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return scores (n, K + 1) float64 that lean towards the labels (n,), and weights (n,); the last ``absent`` organs are not there."""
    g = generator(organs)
    labels = torch.randint(organs + 1 - absent, (500,), generator=g)
    scores = F.one_hot(labels, organs + 1) - 0.5 + torch.randn(500, organs + 1, generator=g)
    return scores.double(), labels, torch.rand(500, generator=g).double() * 9 + 1


def calibration_loss(
    scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, log_scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Return what calibration minimises, by autograd's operations."""
    logits = log_scale.exp() * scores + bias
    share = weights / weights.sum()
    entropy = (F.cross_entropy(logits, labels, reduction="none") * share).sum()
    p, target = logits.softmax(1) * weights[:, None], F.one_hot(labels, scores.shape[1])
    overlap = 2 * (p * target).sum(0) / (p.sum(0) + (target * weights[:, None]).sum(0))
    present = [k for k in range(1, scores.shape[1]) if (labels == k).any()]
    missed = 1 - overlap[present].mean() if present else torch.zeros(())
    return entropy + missed + 1e-3 * (log_scale.square() + bias.square().sum())


@pytest.mark.parametrize(("organs", "absent"), [(1, 0), (4, 0), (3, 1), (2, 2)])
def test_the_calibration_has_the_gradient_of_its_loss(organs: int, absent: int) -> None:
    scores, labels, weights = judged(organs, absent)
    log_scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(organs + 1, generator=generator(), dtype=torch.float64).requires_grad_()
    expected = calibration_loss(scores, labels, weights, log_scale, bias)
    slope, slopes = torch.autograd.grad(expected, (log_scale, bias))
    unknowns = torch.cat([log_scale.detach()[None], bias.detach()]).numpy()
    loss, gradient = CalibrationLoss(scores, labels, weights)(unknowns)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(gradient, torch.cat([slope[None], slopes]).numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("organs", [1, 4])
def test_the_calibration_finds_the_least_loss(organs: int) -> None:
    scores, labels, weights = judged(organs)
    log_scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(organs + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, bias], max_iter=500, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = calibration_loss(scores, labels, weights, log_scale, bias)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    loss, scale, found = calibrate_scores(scores, labels, weights)
    assert loss == pytest.approx(float(closure().detach()), rel=1e-6)
    assert float(scale) == pytest.approx(float(log_scale.detach().exp()), rel=1e-2)
    torch.testing.assert_close(found.double(), bias.detach(), rtol=1e-2, atol=2e-2)
    # scores that are no guide are not trusted
    _, unsure, _ = calibrate_scores(torch.randn(500, organs + 1, generator=generator()).double(), labels, weights)
    assert float(unsure) < 0.5 * float(scale)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_give_no_rows(value: float) -> None:
    scores, labels, weights = judged(1)
    scores[3, 1] = value
    loss, scale, bias = calibrate_scores(scores, labels, weights)
    assert loss == np.inf and scale.isnan() and bias.isnan().all() and bias.shape == (2,)


def test_rows_of_one_sample_have_no_judge() -> None:
    with pytest.raises(ValueError, match="expected at least two samples"):
        closed_form_rows([toy(0, 1)], 1)


def test_an_organ_that_no_scan_shows_is_never_predicted() -> None:
    samples = [toy(seed, 1) for seed in range(2)]
    rows, _ = closed_form_rows(samples, 2)
    assert rows.shape == (3, 5) and rows.isfinite().all()
    assert not ((samples[0].features @ rows.T).argmax(1) == 2).any()


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 7, 5), (6, 5, 1)])
def test_sampled_features_equal_full_resolution(size: tuple[int, int, int]) -> None:
    g = generator()
    features = [torch.randn(1, c, *(-(-n // s) for n in size), generator=g) for c, s in ((3, 1), (4, 2), (5, 4))]
    coords = torch.randn(1, 3, *size, generator=g)
    full = [F.interpolate(f, size=size, mode="trilinear", align_corners=False) for f in features]
    stacked = torch.cat([*full, coords, coords.square(), torch.ones(1, 1, *size)], 1)[0]
    voxels = torch.stack([torch.randint(n, (60,), generator=g) for n in size], 1)
    found = sample_features(features, coords, voxels, size)
    torch.testing.assert_close(found, stacked[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [3, 2])
def test_the_head_gives_rows_times_features(levels: int) -> None:
    """Also for a network with fewer levels than the head was made for."""
    g, size, widths = generator(), (8, 6, 5), (3, 4, 6)
    head = Head(widths)
    features = [torch.randn(2, c, *(-(-n // 2**i) for n in size), generator=g) for i, c in enumerate(widths[:levels])]
    coords = torch.randn(2, 3, *size, generator=g)
    voxels = torch.stack([torch.randint(n, (40,), generator=g) for n in size], 1)
    sampled = head.pad(sample_features([f[1:] for f in features], coords[1:], voxels, size), [f.shape[1] for f in features])
    assert sampled.shape == (40, sum(widths) + NUM_POSITION) == (40, head.size)
    rows = torch.randn(3, head.size, generator=g)
    offsets = rows - head.rows(torch.zeros(3, head.size))
    torch.testing.assert_close(head.rows(offsets), rows)
    logits = head(features, coords, offsets)
    found = logits[1, :, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T
    torch.testing.assert_close(found, sampled @ rows.T, rtol=1e-4, atol=1e-4)


def test_mean_dice() -> None:
    labels = torch.tensor([0, 1, 1, 2]).reshape(1, 4, 1, 1)
    logits = F.one_hot(torch.tensor([0, 1, 0, 2]), 4).float().T.reshape(1, 4, 4, 1, 1)
    assert mean_dice(logits, labels) == pytest.approx((2 / 3 + 1) / 2)  # organ 3 is in neither
    nothing = torch.zeros(1, 4, 1, 1, dtype=torch.int64)
    assert mean_dice(F.one_hot(nothing, 2).permute(0, 4, 1, 2, 3).float(), nothing) == 1.0
