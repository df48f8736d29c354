"""Per-case segmentation metrics, and their means with bootstrap intervals.

Dice, normalised surface Dice (NSD) and the 95th percentile of the Hausdorff distance (HD95) follow Metrics Reloaded
(Maier-Hein et al., Nature Methods 2024). A surface is the set of organ voxels with at least one of six neighbours outside the
organ or outside the volume; distances are between voxel centres, in mm. HD95 is the larger of the two directed percentiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ..data.box import bounding_box

Mask = NDArray[np.bool_]
METRICS = ("dice", "nsd", "hd95_mm")
#: Largest distance at which two surfaces still count as equal, in mm.
NSD_MM = 2.0
#: slack for the rounding of float32 spacings: a distance equal to the tolerance is within it
_ROUNDING = 1 + 1e-6


def nsd_tolerance(spacing: Sequence[float]) -> float:
    """Return the tolerance of the NSD in mm: 2 mm, or the middle of the three voxel edges if that is larger.

    The middle edge is the coarser one within a slice. An error of one voxel within a slice is always tolerated, but thick
    slices alone do not make the metric lenient.
    """
    return max(NSD_MM, float(sorted(spacing)[1]))


def case_metrics(truth: Mask, prediction: Mask, spacing: Sequence[float], tolerance_mm: float) -> dict[str, float]:
    """Return dice, nsd, hd95_mm, truth_voxels, predicted_voxels, empty_truth of two masks (X, Y, Z); ``spacing`` (3,) in mm.

    A missed organ, or an absent organ that is predicted, has Dice 0, NSD 0 and the volume's diagonal as HD95.
    Both empty: Dice 1, NSD 1, HD95 0. ``empty_truth`` (0 or 1) marks a case without the organ.
    """
    truth, prediction = np.asarray(truth, dtype=bool), np.asarray(prediction, dtype=bool)
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(f"expected two masks (X, Y, Z) of one shape, found {truth.shape} and {prediction.shape}")
    num_truth, num_predicted = int(truth.sum()), int(prediction.sum())
    if num_truth and num_predicted:
        dice = 2 * int((truth & prediction).sum()) / (num_truth + num_predicted)
        there, back = surface_distances(truth, prediction, spacing)
        reach = tolerance_mm * _ROUNDING
        nsd = float((there <= reach).sum() + (back <= reach).sum()) / (len(there) + len(back))
        hd95 = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    elif num_truth or num_predicted:
        dice, nsd, hd95 = 0.0, 0.0, float(np.linalg.norm(np.multiply(truth.shape, spacing)))
    else:
        dice, nsd, hd95 = 1.0, 1.0, 0.0
    counts = {"truth_voxels": num_truth, "predicted_voxels": num_predicted, "empty_truth": int(num_truth == 0)}
    return {"dice": dice, "nsd": nsd, "hd95_mm": hd95, **counts}


def surface_distances(first: Mask, second: Mask, spacing: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances in mm from each surface voxel of ``first`` to the surface of ``second``, and vice versa.

    Neither mask (X, Y, Z) may be empty.
    """
    box = bounding_box(first | second)
    points = [np.argwhere(surface(mask, box)) * np.asarray(spacing, dtype=float) for mask in (first, second)]
    # trees over surface points cost far less than distance maps over all voxels; both are exact
    trees = [KDTree(cloud) for cloud in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]


def surface(mask: Mask, box: tuple[slice, ...] | None = None) -> Mask:
    """Return the surface voxels of ``mask`` (X, Y, Z) within ``box``, which must contain the whole mask.

    Axes of one voxel are ignored, so the surface of a single slice is its outline; a volume of one voxel is surface.
    """
    if mask.size == 1:
        return mask
    cut = mask if box is None else mask[box]
    padded = np.pad(cut, 1)
    inside = cut.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] > 1:
            for start in (0, 2):
                window = [slice(1, -1)] * mask.ndim
                window[axis] = slice(start, start + cut.shape[axis])
                inside &= padded[tuple(window)]
    return cut & ~inside


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval ``(low, high)`` of the mean of ``values``."""
    numbers = np.asarray(values, dtype=float)
    if numbers.size == 0:
        raise ValueError("no values to resample")
    drawn = np.random.default_rng(seed).integers(numbers.size, size=(resamples, numbers.size))
    low, high = np.percentile(numbers[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, by organ, counts and ``{"mean", "low", "high"}`` of each metric over that organ's ``rows`` (one per case).

    Every case counts. ``num_missed``: the organ is present but not predicted; ``num_empty_truth``: it is absent;
    ``num_false_positive``: it is absent but predicted.
    """
    organs: dict[str, dict[str, Any]] = {}
    for organ in dict.fromkeys(row["organ"] for row in rows):
        own = [row for row in rows if row["organ"] == organ]
        empty = [row for row in own if not row["truth_voxels"]]
        organs[organ] = {
            "num_cases": len(own),
            "num_missed": sum(1 for row in own if row["truth_voxels"] and not row["predicted_voxels"]),
            "num_empty_truth": len(empty),
            "num_false_positive": sum(1 for row in empty if row["predicted_voxels"]),
            **{name: interval_of([float(row[name]) for row in own]) for name in METRICS},
        }
    return organs


def interval_of(values: Sequence[float]) -> dict[str, float]:
    """Return ``{"mean", "low", "high"}`` of ``values``: the mean and its 95 % bootstrap interval."""
    low, high = bootstrap_interval(values)
    return {"mean": float(np.mean(values)), "low": low, "high": high}
