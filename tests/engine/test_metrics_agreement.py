"""Dice, NSD and HD95 against two independent implementations, on 1,000 random and 50 degenerate pairs of masks.

SciPy: erosion and distance maps over the whole volume, where ours uses shifted copies and trees of surface points. MONAI: its
own metrics. Spacings are anisotropic, half of them float32. MONAI differs in four points; each is converted here, not tolerated:

1. A pair of which one or both are empty: MONAI gives NaN or infinity; ours are the worst case, and 1, 1 and 0 mm.
2. An axis of one voxel: MONAI counts its two ends as outside, so that each voxel is surface; ours ignores the axis. MONAI gets
   the masks without it. It takes no masks of fewer than two axes; SciPy alone compares those.
3. Rounding: MONAI takes the percentile in float32, whose rank (0.95 times the number of surface voxels) is rounded, too. The
   percentile in float64 of its distances agrees to 1e-6 of the value; its own, to the rounding of the rank times the largest
   distance. SciPy agrees to 1e-12.
4. NSD: MONAI's default for edges weights each surface voxel alike, as ours does; its ``use_subvoxels`` weights areas, and stays off.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import DiceMetric
from monai.metrics.surface_dice import compute_surface_dice
from monai.metrics.utils import get_edge_surface_distance
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, generate_binary_structure

from metanas_med.engine import metrics
from metanas_med.engine.metrics import case_metrics

Pair = tuple[np.ndarray, np.ndarray]
NUM_RANDOM, NUM_PARTS = 1000, 10
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:monai.*")


def scipy_metrics(truth: np.ndarray, guess: np.ndarray, spacing: np.ndarray, tolerance: float) -> tuple[float, float, float]:
    """Return Dice, NSD and HD95 by SciPy's erosion and Euclidean distance maps."""
    if not truth.any() and not guess.any():
        return 1.0, 1.0, 0.0
    if not truth.any() or not guess.any():
        return 0.0, 0.0, float(np.sqrt(sum((n * float(s)) ** 2 for n, s in zip(truth.shape, spacing, strict=True))))
    dice = 1 - np.count_nonzero(truth ^ guess) / (np.count_nonzero(truth) + np.count_nonzero(guess))
    long = [axis for axis, size in enumerate(truth.shape) if size > 1]
    flat = [mask.reshape([mask.shape[axis] for axis in long]) for mask in (truth, guess)]
    if not long:
        return dice, 1.0, 0.0
    cross = generate_binary_structure(len(long), 1)
    edges = [mask & np.logical_not(binary_erosion(mask, cross, border_value=0)) for mask in flat]
    if not all(edge.any() for edge in edges):
        raise AssertionError("a mask without surface")
    mm = [float(spacing[axis]) for axis in long]
    maps = [np.asarray(distance_transform_edt(np.logical_not(edge), sampling=mm)) for edge in edges]
    there, back = maps[1][edges[0]], maps[0][edges[1]]
    near = np.count_nonzero(np.concatenate([there, back]) <= tolerance)
    return dice, near / (there.size + back.size), max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))


def monai_metrics(truth: np.ndarray, guess: np.ndarray, spacing: np.ndarray, tolerance: float) -> tuple[float, float, float]:
    """Return Dice, NSD and HD95 by MONAI of a pair of which neither is empty, with its definitions converted to ours."""
    long = [axis for axis, size in enumerate(truth.shape) if size > 1]
    one, two = (
        torch.from_numpy(mask.reshape([mask.shape[axis] for axis in long]))[None, None].float() for mask in (guess, truth)
    )
    mm = [float(spacing[axis]) for axis in long]
    dice = float(DiceMetric(include_background=True, reduction="none")(one, two))  # type: ignore[arg-type]
    _, directed, _ = get_edge_surface_distance(one[0, 0], two[0, 0], spacing=mm, symmetric=True)
    distances = [np.asarray(side, dtype=np.float64) for side in directed]
    hd95 = max(float(np.percentile(side, 95)) for side in distances)
    theirs = float(compute_hausdorff_distance(one, two, include_background=True, percentile=95, spacing=mm))
    assert hd95 == pytest.approx(theirs, rel=1e-6, abs=max(side.size * side.max() for side in distances) * 2**-23)
    nsd = float(compute_surface_dice(one, two, [tolerance], include_background=True, spacing=tuple(mm)))
    return dice, nsd, hd95


def compare(truth: np.ndarray, guess: np.ndarray, spacing: np.ndarray, tolerance: float, counts: dict[str, int]) -> None:
    """Compare one pair with both implementations, and count the comparisons."""
    found = case_metrics(truth, guess, spacing, tolerance)  # type: ignore[arg-type]
    ours = [found["dice"], found["nsd"], found["hd95_mm"]]
    assert ours == pytest.approx(scipy_metrics(truth, guess, spacing, tolerance), rel=1e-12, abs=1e-12)
    counts["scipy"] += 1
    if truth.any() and guess.any() and sum(size > 1 for size in truth.shape) >= 2:
        theirs = monai_metrics(truth, guess, spacing, tolerance)
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
        counts["monai"] += 1


def random_pair(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return two masks of 2 to 16 voxels an axis (blobs, boxes or noise; related or not), a spacing and a tolerance."""
    shape = tuple(int(n) for n in generator.integers(2, 17, size=3))

    def drawn() -> np.ndarray:
        kind = generator.integers(3)
        if kind == 0:
            noise = gaussian_filter(generator.normal(size=shape), generator.uniform(0.5, 2.0))
            return noise >= np.quantile(noise, generator.uniform(0.3, 0.99))
        if kind == 1:
            mask = np.zeros(shape, bool)
            ends = [np.sort(generator.integers(0, n + 1, size=2)) for n in shape]
            mask[tuple(slice(low, max(high, low + 1)) for low, high in ends)] = True
            return mask
        return generator.random(shape) < generator.uniform(0.01, 0.6)

    truth = drawn()
    kind = generator.integers(3)
    if kind == 0:
        guess = drawn()
    elif kind == 1:
        guess = np.roll(truth, tuple(int(s) for s in generator.integers(-2, 3, size=3)), axis=(0, 1, 2))
    else:
        guess = truth ^ (generator.random(shape) < 0.03)
    spacing = np.exp(generator.uniform(np.log(0.2), np.log(8.0), size=3))
    return truth, guess, spacing.astype(np.float32) if generator.random() < 0.5 else spacing, float(generator.uniform(0.1, 6.0))


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_random_masks_agree_with_scipy_and_monai(part: int) -> None:
    generator, counts = np.random.default_rng([27, part]), {"scipy": 0, "monai": 0}
    for _ in range(NUM_RANDOM // NUM_PARTS):
        compare(*random_pair(generator), counts)
    assert counts["scipy"] == NUM_RANDOM // NUM_PARTS
    assert counts["monai"] >= 0.9 * counts["scipy"]  # the others have an empty mask


def _with(shape: tuple[int, ...], *places: tuple[slice | int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


def _degenerate() -> dict[str, Pair]:
    """Return pairs of masks at the limits of the definitions, by what they are."""
    shape, rest = (7, 6, 5), slice(None)
    empty, full, dot = np.zeros(shape, bool), np.ones(shape, bool), _with(shape, (3, 3, 2))
    corner, far, slab = _with(shape, (0, 0, 0)), _with(shape, (6, 5, 4)), _with(shape, (rest, rest, 2))
    box, shell = _with(shape, (slice(2, 5), slice(2, 5), slice(1, 4))), full.copy()
    shell[1:-1, 1:-1, 1:-1] = False
    hollow = box & ~dot
    line, diagonal = _with(shape, (rest, 3, 2)), _with(shape, *((k, k, k) for k in range(5)))
    checks = (np.indices(shape).sum(0) % 2).astype(bool)
    edge = _with(shape, (slice(0, 2), rest, rest))
    pairs: dict[str, Pair] = {
        "both empty": (empty, empty),
        "missed": (dot, empty),
        "invented": (empty, dot),
        "full and empty": (full, empty),
        "empty and full": (empty, full),
        "both full": (full, full),
        "full and a voxel": (full, dot),
        "a voxel and full": (dot, full),
        "one voxel, twice": (dot, dot),
        "neighbour voxels": (dot, _with(shape, (4, 3, 2))),
        "diagonal voxels": (dot, _with(shape, (4, 4, 3))),
        "opposite corners": (corner, far),
        "a corner and the centre": (corner, dot),
        "a corner, twice": (corner, corner),
        "a corner and full": (corner, full),
        "one slice, twice": (slab, slab),
        "neighbour slices": (slab, _with(shape, (rest, rest, 3))),
        "first and last slice": (_with(shape, (rest, rest, 0)), _with(shape, (rest, rest, 4))),
        "crossed slices": (slab, _with(shape, (3, rest, rest))),
        "a slice and full": (slab, full),
        "a line, twice": (line, line),
        "crossed lines": (line, _with(shape, (3, rest, 2))),
        "far parallel lines": (_with(shape, (rest, 0, 0)), _with(shape, (rest, 5, 4))),
        "a diagonal line": (diagonal, line),
        "a diagonal and full": (diagonal, full),
        "identical boxes": (box, box),
        "a box with a hole": (box, hollow),
        "two holes": (hollow, hollow),
        "a box inside full": (box, full),
        "a shell and full": (shell, full),
        "a shell and its core": (shell, ~shell),
        "a shell and a voxel": (shell, dot),
        "a chessboard and its inverse": (checks, ~checks),
        "a chessboard and full": (checks, full),
        "two far parts and one": (corner | far, corner),
        "one part and two far ones": (far, corner | far),
        "touching the border": (edge, np.roll(edge, 1, axis=0)),
        "opposite faces": (edge, np.flip(edge, axis=0).copy()),
        "all but a voxel": (full, ~dot),
        "all but a corner": (full, ~corner),
        "disjoint halves": (_with(shape, (slice(0, 3), rest, rest)), _with(shape, (slice(3, 7), rest, rest))),
    }
    flat = _with((8, 7, 1), (slice(2, 6), slice(1, 5), 0))
    for axis, name in enumerate("xyz"):
        one = np.moveaxis(flat, 2, axis)
        pairs[f"one voxel along {name}"] = (one, np.roll(one, 1, axis=(axis + 1) % 3))
    pairs |= {
        "one voxel along z, full": (np.ones((8, 7, 1), bool), flat),
        "one voxel along z, missed": (flat, np.zeros((8, 7, 1), bool)),
        "a row of voxels": (_with((9, 1, 1), (slice(1, 5), 0, 0)), _with((9, 1, 1), (slice(3, 8), 0, 0))),
        "a row, one voxel": (_with((1, 9, 1), (0, 0, 0)), _with((1, 9, 1), (0, 8, 0))),
        "a volume of one voxel": (np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool)),
        "a volume of one voxel, missed": (np.ones((1, 1, 1), bool), np.zeros((1, 1, 1), bool)),
    }
    return pairs


DEGENERATE = _degenerate()


@pytest.mark.parametrize("kind", list(DEGENERATE))
def test_degenerate_masks_agree_with_scipy_and_monai(kind: str) -> None:
    counts = {"scipy": 0, "monai": 0}
    truth, guess = DEGENERATE[kind]
    for spacing in (np.array([0.7, 1.3, 5.1]), np.array([2.2, 0.41, 0.9], dtype=np.float32)):
        for tolerance in (0.05, 2.345):
            compare(truth, guess, spacing, tolerance, counts)
    assert counts["scipy"] == 4


def test_fifty_degenerate_kinds() -> None:
    assert len(DEGENERATE) >= 50


@pytest.mark.parametrize("fault", ["spacing", "surface", "percentile"])
def test_the_comparison_sees_a_wrong_metric(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric without spacing, with other surfaces or with another percentile fails within a hundred pairs."""
    distances, percentile = metrics.surface_distances, np.percentile
    if fault == "spacing":
        monkeypatch.setattr(metrics, "surface_distances", lambda a, b, spacing: distances(a, b, (1.0, 1.0, 1.0)))
    elif fault == "surface":
        monkeypatch.setattr(metrics, "surface", lambda mask, box: mask[box])
    else:
        monkeypatch.setattr(metrics, "np", SimpleNamespace(**vars(np) | {"percentile": lambda a, q: percentile(a, q - 1)}))
    generator, counts = np.random.default_rng([27, 0]), {"scipy": 0, "monai": 0}
    pairs = [random_pair(generator) for _ in range(100)]
    with pytest.raises(AssertionError):
        [compare(*pair, counts) for pair in pairs]
