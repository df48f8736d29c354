"""Metrics against closed forms, a brute-force surface distance and MONAI's metrics."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from scipy.ndimage import gaussian_filter

from metanas_med.engine.metrics import bootstrap_interval, case_metrics, nsd_tolerance, summarize, surface


def cube(shape: tuple[int, ...], start: tuple[int, ...], size: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


def blob(seed: int, shape: tuple[int, int, int] = (13, 11, 7)) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return noise > np.quantile(noise, 0.8)


def brute_force(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> tuple[float, float]:
    """Return NSD and HD95 the slow way: neighbours looked up one by one, all pairs of surface voxels."""

    def surface_points(mask: np.ndarray) -> np.ndarray:
        points = []
        for voxel in map(tuple, np.argwhere(mask)):
            for axis in range(3):
                for step in (-1, 1):
                    near = list(voxel)
                    near[axis] += step
                    if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                        points.append(voxel)
        return np.unique(np.array(points), axis=0) * np.array(spacing)

    first, second = surface_points(truth), surface_points(prediction)
    pairs = np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
    there, back = pairs.min(1), pairs.min(0)
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    return near / (len(there) + len(back)), max(np.percentile(there, 95), np.percentile(back, 95))


def test_shifted_cube_in_closed_form() -> None:
    size, shift, edge = 10, 3, 1.5
    truth, prediction = cube((30, 30, 30), (5, 5, 5), size), cube((30, 30, 30), (5 + shift, 5, 5), size)
    result = case_metrics(truth, prediction, (edge, 1.0, 1.0), tolerance_mm=2.0)
    assert result["dice"] == pytest.approx((size - shift) / size)
    # the far face (100 of 488 surface voxels) lies 3 voxels of 1.5 mm away, so the 95th percentile is that distance
    assert result["hd95_mm"] == pytest.approx(shift * edge)
    assert result["truth_voxels"] == result["predicted_voxels"] == size**3
    assert case_metrics(truth, prediction, (edge, 1.0, 1.0), tolerance_mm=shift * edge)["nsd"] == 1.0
    # at tolerance 0 only common surface voxels count: of the 4 long sides, the rings 7 voxels long (36 voxels each), and nothing
    # of the two moved faces but their rims, which are in those rings
    assert case_metrics(truth, prediction, (edge, 1.0, 1.0), 0.0)["nsd"] == pytest.approx(36 * (size - shift) / 488)


@pytest.mark.filterwarnings("ignore::FutureWarning:monai.*")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.1, 3.0)])
def test_equal_to_brute_force_and_to_monai(seed: int, spacing: tuple[float, float, float]) -> None:
    truth, prediction = blob(seed), blob(seed + 100) | blob(seed)
    result = case_metrics(truth, prediction, spacing, 1.2)
    nsd, hd95 = brute_force(truth, prediction, spacing, 1.2)
    assert result["nsd"] == pytest.approx(nsd, abs=1e-12)
    assert result["hd95_mm"] == pytest.approx(hd95, abs=1e-9)

    one, two = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth))
    assert result["dice"] == pytest.approx(compute_dice(one, two).item(), abs=1e-6)
    theirs = compute_hausdorff_distance(one, two, include_background=True, percentile=95, spacing=list(spacing)).item()
    assert result["hd95_mm"] == pytest.approx(theirs, abs=1e-4)
    theirs = compute_surface_dice(one, two, [1.2], include_background=True, spacing=spacing).item()
    assert result["nsd"] == pytest.approx(theirs, abs=1e-5)


def test_the_crop_changes_nothing() -> None:
    truth, prediction = blob(1), blob(2)
    wide = [np.pad(mask, ((9, 2), (4, 7), (3, 3))) for mask in (truth, prediction)]
    # a rim of background only around both, so that no surface lies at the volume's border
    rim = [np.pad(mask, 1) for mask in (truth, prediction)]
    assert case_metrics(wide[0], wide[1], (1, 2, 3), 2.0) == case_metrics(rim[0], rim[1], (1, 2, 3), 2.0)


def test_identity_and_symmetry() -> None:
    truth, prediction = blob(3), blob(4)
    same = case_metrics(truth, truth, (1, 1, 1), 2.0)
    assert (same["dice"], same["nsd"], same["hd95_mm"]) == (1.0, 1.0, 0.0)
    there, back = case_metrics(truth, prediction, (1, 2, 3), 2.0), case_metrics(prediction, truth, (1, 2, 3), 2.0)
    assert [there[name] for name in ("dice", "nsd", "hd95_mm")] == [back[name] for name in ("dice", "nsd", "hd95_mm")]


def test_missed_organ_and_empty_truth() -> None:
    organ, nothing, diagonal = cube((8, 8, 8), (2, 2, 2), 3), np.zeros((8, 8, 8), bool), np.sqrt(3) * 16
    missed = case_metrics(organ, nothing, (2, 2, 2), 2.0)
    assert (missed["dice"], missed["nsd"], missed["empty_truth"]) == (0, 0, 0)
    assert missed["hd95_mm"] == pytest.approx(diagonal)
    invented = case_metrics(nothing, organ, (2, 2, 2), 2.0)
    assert (invented["dice"], invented["nsd"], invented["empty_truth"]) == (0, 0, 1)
    assert invented["hd95_mm"] == pytest.approx(diagonal)
    neither = case_metrics(nothing, nothing, (2, 2, 2), 2.0)
    assert (neither["dice"], neither["nsd"], neither["hd95_mm"], neither["empty_truth"]) == (1, 1, 0, 1)
    with pytest.raises(ValueError):
        case_metrics(organ, nothing[:4], (1, 1, 1), 2.0)


def test_a_single_slice_has_an_outline() -> None:
    assert surface(cube((9, 9, 1), (2, 2, 0), 5)).sum() == 16
    shifted = case_metrics(cube((40, 40, 1), (5, 5, 0), 20), cube((40, 40, 1), (11, 5, 0), 20), (1, 1, 9), 2.0)
    assert shifted["hd95_mm"] == pytest.approx(6.0)


@pytest.mark.parametrize("spacing, expected", [((1, 1, 1), 2.0), ((0.7, 0.7, 10), 2.0), ((3, 2.5, 8), 3.0), ((4, 4, 4), 4.0)])
def test_tolerance(spacing: tuple[float, ...], expected: float) -> None:
    assert nsd_tolerance(spacing) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_a_shift_of_as_much_as_the_tolerance_is_forgiven(turned: bool) -> None:
    """One voxel where they are over 2 mm, two of 1 mm: whatever the rounding of a float32 affine makes of the spacing."""
    shape = np.zeros((20, 20, 20), dtype=bool)
    shape[5:12, 5:12, 5:12] = True
    for number, mm in enumerate([1.0, *np.arange(2.05, 5.0, 0.05)]):
        spacing = [mm] * 3
        if turned:
            angle = 0.1 + 0.05 * number
            turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
            spacing = np.linalg.norm((turn * mm).astype(np.float32).astype(float), axis=0).tolist()
        steps = 2 if mm == 1.0 else 1
        for axis in range(3):
            found = case_metrics(shape, np.roll(shape, steps, axis), spacing, nsd_tolerance(spacing))
            assert found["nsd"] == 1.0, (mm, axis)
        assert case_metrics(shape, np.roll(shape, steps + 1, 0), spacing, nsd_tolerance(spacing))["nsd"] < 1


def test_fast_on_a_cardiac_volume() -> None:
    grid = np.indices((250, 250, 12)) - np.array([120, 120, 6]).reshape(3, 1, 1, 1)
    radius = np.sqrt(grid[0] ** 2 + grid[1] ** 2 + (8 * grid[2]) ** 2)
    truth, prediction = radius < 50, np.roll(radius < 46, 5, axis=0)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        case_metrics(truth, prediction, (1.25, 1.25, 8), 2.0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # about 0.02 s on an idle core; the bound leaves room for a busy machine


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.1, size=400)
    low, high = bootstrap_interval(list(values))
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.15 * error)
    assert bootstrap_interval(list(values)) == (low, high)
    assert bootstrap_interval([0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError):
        bootstrap_interval([])


def test_summary_counts_every_case() -> None:
    sizes = [(10, 9, 0.8), (10, 0, 0.0), (0, 0, 1.0), (0, 4, 0.0)]
    rows = [
        {"organ": "heart", "truth_voxels": truth, "predicted_voxels": found, "dice": dice, "nsd": dice, "hd95_mm": 9.0}
        for truth, found, dice in sizes
    ]
    heart = summarize(rows)["heart"]
    counts = {name: heart[name] for name in ("num_cases", "num_missed", "num_empty_truth", "num_false_positive")}
    assert counts == {"num_cases": 4, "num_missed": 1, "num_empty_truth": 2, "num_false_positive": 1}
    assert heart["dice"]["mean"] == pytest.approx(0.45)
    assert heart["dice"]["low"] <= 0.45 <= heart["dice"]["high"]
