"""Plans: fitted to the support alone, applied to scans, and inverted exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metanas_med.data.plan as plan_module
from metanas_med.data.plan import FINER, Intensity, Plan, fit_plan, stride_schedule, thinnest


def ball(shape: tuple[int, int, int], spacing: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Return a ball around the middle, (X, Y, Z) uint8."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return (np.sum(np.square(grid), axis=0) < radius_mm**2).astype(np.uint8)


def fit(shape=(20, 24, 16), spacing=(1.0, 1.0, 1.0), radius_mm=5.0, kinds=("MR",), **options: Any) -> Plan:
    label = ball(shape, spacing, radius_mm)
    image = np.random.default_rng(0).normal(size=(len(kinds), *shape)).astype(np.float32)
    given = {"view_voxels": 4000, "margin": 1.6, "levels": 3} | options
    return fit_plan([image], [label], [spacing], kinds, **given)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_inverse_is_exact_in_native_spacing(axes: tuple[int, int, int]) -> None:
    spacing = (0.7, 1.5, 3.0)
    plan = Plan(axes, tuple(spacing[a] for a in axes), (8, 8, 8), (), (Intensity("robust"),))  # type: ignore[arg-type]
    label = np.random.default_rng(0).integers(0, 4, (7, 5, 9)).astype(np.uint8)
    image = np.random.default_rng(1).normal(size=(1, 7, 5, 9)).astype(np.float32)
    planned = plan.apply_label(label, spacing, 3)
    assert planned.dtype == torch.uint8 and tuple(planned.shape) == tuple(label.shape[a] for a in axes)
    assert plan.apply_image(image, spacing).shape[1:] == planned.shape
    scores = torch.nn.functional.one_hot(planned.long(), 4).permute(3, 0, 1, 2).float()
    back = plan.invert_scores(scores, label.shape)
    np.testing.assert_array_equal(back.argmax(0).numpy(), label)


@pytest.mark.parametrize("most", [3, 4])
@pytest.mark.parametrize("target", [(1.6, 1.6, 1.6), (0.8, 3.1, 1.2), (1.0, 1.0, 0.5)])
def test_the_largest_of_all_soft_maps_wins(target: tuple[float, float, float], most: int) -> None:
    """With four organs, whether or not the last one has any voxel."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, most + 1, (5, 6, 4)).repeat(3, 0).repeat(2, 1).repeat(3, 2).astype(np.uint8)
    plan = Plan((0, 1, 2), target, (8, 8, 8), (), (Intensity("robust"),))
    found = plan.apply_label(label, (1, 1, 1), 4)
    soft = torch.stack(
        [plan_module._resample(torch.from_numpy(label == k)[None], plan.shape(label.shape, (1, 1, 1)))[0] for k in range(5)]
    )
    assert tuple(found.shape) == plan.shape(label.shape, (1, 1, 1)) and found.dtype == torch.uint8
    reached = soft.gather(0, found.long()[None])[0]
    assert torch.equal(reached, soft.amax(0))
    first = (soft == soft.amax(0)).int().argmax(0)
    assert torch.equal(found.long(), first) and set(found.unique().tolist()) == set(range(most + 1))


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 2.5), (3.0, 1.0, 1.0), (1.0, 2.2, 1.3)])
def test_smooth_shapes_survive_resampling(spacing: tuple[float, float, float]) -> None:
    shape = tuple(int(60 / s) for s in spacing)
    label = ball(shape, spacing, 17.0)  # type: ignore[arg-type]
    plan = fit(shape, spacing, 17.0, view_voxels=30000)  # type: ignore[arg-type]
    planned = plan.apply_label(label, spacing, 1)
    assert tuple(planned.shape) == plan.shape(shape, spacing) and planned.numel() < label.size
    scores = torch.stack([planned == 0, planned == 1]).float()
    back = plan.invert_scores(scores, shape).argmax(0).numpy().astype(np.uint8)
    assert back.shape == label.shape
    assert dice(back == 1, label == 1) > 0.97


def test_resampling_does_not_shift() -> None:
    """Resampling keeps a blob's centre of mass: there is no half-voxel shift."""
    x, y, z = np.meshgrid(*(np.arange(40.0) for _ in range(3)), indexing="ij")
    blob = np.exp(-((x - 14) ** 2 + (y - 26) ** 2 + (z - 17) ** 2) / 40).astype(np.float32)
    plan = Plan((2, 0, 1), (2.5, 1.7, 0.8), (8, 8, 8), (), (Intensity("ct", 0.0, 1.0, 0.0, 1.0),))
    planned = plan.apply_image(blob[None], (1.0, 1.0, 1.0))
    assert tuple(planned.shape) == (1, 16, 24, 50)
    back = plan.invert_scores(planned, blob.shape)[0].numpy()
    for grid in (x, y, z):
        assert (grid * back).sum() / back.sum() == pytest.approx((grid * blob).sum() / blob.sum(), abs=0.05)


def test_the_coarsest_axis_comes_last() -> None:
    assert fit(spacing=(5.0, 1.0, 1.2)).axes == (1, 2, 0)
    assert fit(spacing=(1.0, 3.0, 1.2)).axes == (0, 2, 1)
    assert fit(spacing=(1.0, 1.1, 1.05)).axes == (0, 1, 2)  # nearly equal: the order is kept
    plan = fit((30, 30, 30), (1.0, 4.0, 1.0), 12.0)
    assert plan.spacing[2] == max(plan.spacing)


def test_ct_is_clipped_at_percentiles_of_the_organ() -> None:
    random = np.random.default_rng(0)
    image = random.normal(-500, 300, (1, 20, 20, 20)).astype(np.float32)
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[5:15, 5:15, 5:15] = 1
    image[0][label > 0] = random.normal(60, 20, int(label.sum()))
    plan = fit_plan([image], [label], [(1, 1, 1)], ["CT"], view_voxels=4096, margin=1.6, levels=3)
    (found,) = plan.intensities
    inside = image[0][label > 0]
    low, high = np.percentile(inside, [0.5, 99.5])
    assert found.kind == "ct" and found.low == pytest.approx(low) and found.high == pytest.approx(high)
    assert found.center == pytest.approx(inside.clip(low, high).mean(), abs=1e-3)
    plan = Plan((0, 1, 2), (1.0, 1.0, 1.0), (8, 8, 8), (), plan.intensities)
    out = plan.apply_image(image, (1, 1, 1))[0].numpy()
    assert out.dtype == np.float32 and abs(out[label > 0].mean()) < 1e-3 and abs(out[label > 0].std() - 1) < 1e-2
    np.testing.assert_allclose(out.min(), (low - found.center) / found.scale, rtol=1e-4)


def test_other_modalities_are_standardised_per_scan() -> None:
    random = np.random.default_rng(0)
    base = random.normal(0, 1, (1, 16, 16, 16)).astype(np.float32)
    plan = Plan((0, 1, 2), (1.0, 1.0, 1.0), (8, 8, 8), (), (Intensity("robust"),))
    first = plan.apply_image(base, (1, 1, 1))
    second = plan.apply_image(base * 250 + 900, (1, 1, 1))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)  # scale and offset of the scanner do not matter
    assert abs(float(first.median())) < 0.02 and 0.8 < float(first.std()) < 1.2
    wild = base.copy()
    wild[0, 0, 0, :4] = 1e6  # a few outliers do not change the rest
    torch.testing.assert_close(plan.apply_image(wild, (1, 1, 1))[0, 1:], first[0, 1:], rtol=0.02, atol=0.02)
    for constant in (0.0, -7.0):
        assert plan.apply_image(np.full((1, 4, 4, 4), constant, dtype=np.float32), (1, 1, 1)).isfinite().all()
    mask = np.zeros((1, 20, 20, 20), dtype=np.float32)
    mask[0, :2, :2, :2] = 5.0
    assert plan.apply_image(mask, (1, 1, 1)).isfinite().all()


@pytest.mark.parametrize("lowest", [-3.4e38, 3.4e38])
def test_the_largest_float_stays_finite(lowest: float) -> None:
    """Some scanners store it for "no data"; it does not change the rest of the scan."""
    image = np.random.default_rng(0).normal(1, 0.05, (12, 12, 12)).astype(np.float32)
    spoilt = image.copy()
    spoilt[0, 0] = lowest
    plan = fit_plan(
        [image[None]], [np.ones(image.shape, np.uint8)], [(1.0, 1.0, 1.0)], ["MR"], view_voxels=1728, margin=1.5, levels=2
    )
    clean, found = (plan.apply_image(x[None], (1.0, 1.0, 1.0)) for x in (image, spoilt))
    assert torch.isfinite(found).all()
    assert (found[:, 1:] - clean[:, 1:]).abs().max() < 0.1
    flat = np.zeros((12, 12, 12), np.float32)
    flat[0, 0] = lowest
    assert torch.isfinite(plan.apply_image(flat[None], (1.0, 1.0, 1.0))).all()


def test_scans_of_six_slices_and_axes_of_one_voxel() -> None:
    plan = fit((64, 64, 6), (0.7, 0.7, 8.0), 20.0, view_voxels=9000, levels=4)
    assert plan.axes[2] == 2 and plan.view[2] == 6
    assert plan.strides[0][2] == 1 and len(plan.strides) == 3
    for axis in range(3):
        shape = tuple(1 if a == axis else 20 for a in range(3))
        label = np.zeros(shape, dtype=np.uint8)
        label[tuple(slice(0, 1) if a == axis else slice(5, 12) for a in range(3))] = 1
        image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
        plan = fit_plan([image], [label], [(1, 1, 1)], ["MR"], view_voxels=1000, margin=1.6, levels=3)
        assert plan.shape(shape, (1, 1, 1)) == tuple(shape[a] for a in plan.axes) and 1 in plan.view
        planned = plan.apply_label(label, (1, 1, 1), 1)
        back = plan.invert_scores(torch.stack([planned == 0, planned == 1]).float(), shape).argmax(0)
        np.testing.assert_array_equal(back.numpy(), label)


def test_an_empty_label_map_still_gives_a_plan() -> None:
    image = np.random.default_rng(0).normal(size=(1, 12, 12, 12)).astype(np.float32)
    label = np.zeros((12, 12, 12), dtype=np.uint8)
    for kind in ("CT", "MR"):
        plan = fit_plan([image], [label], [(1, 1, 1)], [kind], view_voxels=500, margin=1.6, levels=3)
        assert plan.apply_image(image, (1, 1, 1)).isfinite().all()


def test_a_plan_survives_json() -> None:
    plan = fit(spacing=(2.0, 1.0, 0.5), kinds=("CT", "MR"))
    text = json.dumps(plan.to_json(), allow_nan=False)
    again = Plan.from_json(json.loads(text))
    assert again == plan and hash(again) == hash(plan)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 60)] * 3),
    st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 2.5, 6.0])] * 3),
    st.integers(64, 20000),
    st.sampled_from([1.0, 1.6, 3.0]),
)
def test_the_view_stays_within_its_budget(shape: Any, spacing: Any, budget: int, margin: float) -> None:
    label = np.zeros(shape, dtype=np.uint8)
    label[tuple(slice(n // 3, n // 3 + max(1, n // 4)) for n in shape)] = 1
    image = np.zeros((1, *shape), dtype=np.float32)
    plan = fit_plan([image], [label], [spacing], ["MR"], view_voxels=budget, margin=margin, levels=4)
    # up to the rounding of each axis
    assert np.prod([max(v - 0.5, 1.0) for v in plan.view]) <= budget * 1.001
    planned = plan.shape(shape, spacing)
    assert all(1 <= v <= n + 1 for v, n in zip(plan.view, planned, strict=True))
    finest = sorted(spacing[a] for a in plan.axes)
    assert all(s >= spacing[a] - 1e-9 for s, a in zip(plan.spacing, plan.axes, strict=True)) and finest
    # the organ fits into a view with nearly its margin, unless the scan ends before
    extent = [max(1, n // 4) * s for n, s in zip(shape, spacing, strict=True)]
    for v, s, a in zip(plan.view, plan.spacing, plan.axes, strict=True):
        assert (v + 1) * s >= min(extent[a] * margin, shape[a] * spacing[a]) * 0.999


def counted_chords(label: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    """Return what ``thinnest`` should find in one map, by following every line."""
    found = [np.inf] * 3
    for organ in set(label.ravel().tolist()) - {0}:
        for axis, mm in enumerate(spacing):
            chords = []
            for line in np.moveaxis(label == organ, axis, -1).reshape(-1, label.shape[axis]):
                runs = "".join("x" if v else " " for v in line).split()
                chords += [len(run) * mm for run in runs]
            found[axis] = min(found[axis], sum(chords) / len(chords))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.6))
def test_the_thinnest_organ_is_measured_by_its_chords(seed: int, density: float) -> None:
    random = np.random.default_rng(seed)
    label = ((random.random((7, 6, 5)) < density) * random.integers(1, 4, (7, 6, 5))).astype(np.uint8)
    spacing = (0.7, 1.3, 2.9)
    assert thinnest([label], [spacing]) == pytest.approx(counted_chords(label, spacing))


def test_thickness_is_the_median_over_scans_and_the_minimum_over_organs() -> None:
    labels = []
    for width in (2, 4, 9):
        label = np.zeros((30, 30, 30), dtype=np.uint8)
        label[5 : 5 + width, 5:25, 5:25] = 1
        label[18:28, 2:28, 2:28] = 2
        labels.append(label)
    labels.append(np.zeros((30, 30, 30), dtype=np.uint8))  # a scan without any organ does not count
    spacings = [(1.5, 1.0, 1.0)] * 4
    assert thinnest(labels, spacings).tolist() == [4 * 1.5, 20, 20]
    assert thinnest(labels[:1] * 3 + labels[2:3], spacings).tolist() == [2 * 1.5, 20, 20]


@pytest.mark.parametrize(("width", "thickness"), [(2, 2.0), (5, 2.0), (5, 3.0), (12, 2.0)])
def test_a_thin_organ_makes_the_spacing_finer(width: int, thickness: float) -> None:
    shape = (64, 64, 64)
    label = np.zeros(shape, dtype=np.uint8)
    label[4:60, 4:40, 4:60] = 1
    label[4 : 4 + width, 44:60, 4:60] = 2
    image = np.zeros((1, *shape), dtype=np.float32)
    given: dict[str, Any] = {"view_voxels": 4096, "margin": 1.0, "levels": 3}
    whole = fit_plan([image], [label], [(1, 1, 1)], ["MR"], **given)
    fine = fit_plan([image], [label], [(1, 1, 1)], ["MR"], **given, thickness=thickness)
    assert min(whole.view) * whole.spacing[0] > 50  # the view holds all organs
    wanted = min(max(width / thickness, whole.spacing[0] / FINER), whole.spacing[0])
    assert fine.spacing == pytest.approx((wanted,) * 3)
    assert np.prod([max(v - 0.5, 1.0) for v in fine.view]) <= 4096 * 1.001
    assert (fine == whole) == (width == 12)
    if fine != whole:
        assert set(fine.view) == {16}


def test_a_thin_organ_never_makes_the_spacing_finer_than_the_scan() -> None:
    shape = (40, 40, 40)
    label = np.zeros(shape, dtype=np.uint8)
    label[2:38, 2:38, 20] = 1
    image = np.zeros((1, *shape), dtype=np.float32)
    given: dict[str, Any] = {"view_voxels": 30000, "margin": 1.0, "levels": 3, "thickness": 2.0}
    assert fit_plan([image], [label], [(1, 1, 1)], ["MR"], **given).spacing == (1.0, 1.0, 1.0)
    given["view_voxels"] = 300
    thick = fit_plan([image], [label], [(1, 1, 3)], ["MR"], **given)
    whole = fit_plan([image], [label], [(1, 1, 3)], ["MR"], view_voxels=300, margin=1.0, levels=3)
    # half of the single slice would be finer, but no grid can show it; within the slice the organ is thick
    assert thick == whole and thick.spacing[2] == 3.0 > thick.spacing[0] > 1.5
    assert fit_plan([image], [label], [(1, 1, 1)], ["MR"], **given).spacing[0] < whole.spacing[0]


def test_a_small_scan_is_seen_whole_in_native_spacing() -> None:
    plan = fit((20, 16, 12), (1.0, 1.0, 1.0), 5.0, view_voxels=20 * 16 * 12)
    assert plan.spacing == (1.0, 1.0, 1.0) and plan.view == (20, 16, 12)


def test_strides_follow_spacing_and_length() -> None:
    assert stride_schedule((32, 32, 32), (1, 1, 1), 4) == ((2, 2, 2),) * 3
    assert stride_schedule((32, 32, 8), (1, 1, 4), 4) == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert stride_schedule((40, 40, 6), (1, 1, 8), 3) == ((2, 2, 1), (2, 2, 1))
    assert stride_schedule((4, 4, 4), (1, 1, 1), 3) == ((1, 1, 1),) * 2
    assert stride_schedule((1, 1, 1), (1, 1, 1), 3) == ((1, 1, 1),) * 2
    assert stride_schedule((3, 30, 30), (0.5, 1, 1), 2) == ((1, 2, 2),)
    assert stride_schedule((8, 8, 8), (1, 1, 1), 1) == ()


@pytest.mark.parametrize("shape", [(9, 7, 5), (20, 13, 8)])
def test_inverted_labels_are_the_argmax_of_inverted_scores(shape: tuple[int, int, int]) -> None:
    plan = Plan((1, 2, 0), (1.0, 1.0, 1.0), (4, 4, 4), (), (Intensity("robust"),))
    planned = tuple(shape[a] for a in plan.axes) if shape[0] == 9 else (6, 5, 9)
    scores = torch.randint(0, 3, (4, *planned), generator=torch.Generator().manual_seed(1)).float()  # with ties
    before = scores.clone()
    found = plan.invert_labels(scores, shape)
    assert found.dtype == torch.uint8 and tuple(found.shape) == shape
    assert torch.equal(found.long(), plan.invert_scores(scores, shape).argmax(0)) and torch.equal(scores, before)
