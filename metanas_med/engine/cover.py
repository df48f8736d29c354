"""Choice of a few points that cover all others well: pure, deterministic functions of features and distance matrices.

*k-centre* bounds the distance of the worst-covered point. Farthest first (Gonzalez 1985, "Clustering to minimize the maximum
intercluster distance") is within a factor of two of the optimum. *k-medoids* bounds the mean distance. PAM makes a greedy start
and then swaps until no swap helps (Kaufman and Rousseeuw 1990, "Finding Groups in Data", chapter 2). All swaps of a round are
evaluated together, as in FastPAM1 (Schubert and Rousseeuw 2019, arXiv 1810.05691). Ties go to the lower index. Distances are
(n, n), symmetric, zero on the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: a swap must gain more than this share of the largest distance; rounding of sums stays below it
_GAIN = 1e-9


@dataclass(frozen=True)
class Cover:
    """How well chosen points cover all points: the distance of each to the nearest chosen one, with mean and maximum."""

    nearest: tuple[int, ...]  #: for every point, the position of the nearest chosen point in the list of chosen points
    distances: tuple[float, ...]
    mean: float
    farthest: float


def feature_distances(features: Array) -> Array:
    """Return Euclidean distances (n, n) of ``features`` (n, F), each standardised over the n points, divided by sqrt(F).

    A distance of 1 is one standard deviation per feature. Constant features contribute nothing.
    """
    values = np.asarray(features, dtype=np.float64)
    spread = values.std(0)
    # the deviation of a constant column is a rounding error, not zero
    varies = spread > 1e-9 * np.maximum(np.abs(values).max(0), 1e-300)
    scaled = np.where(varies, (values - values.mean(0)) / np.where(varies, spread, 1.0), 0.0)
    rows = [np.sqrt(np.square(scaled - row).mean(1)) for row in scaled]  # exact zeros, unlike the expanded square
    return np.stack(rows)


def k_centre(distances: Array, count: int) -> list[int]:
    """Return ``count`` indices, farthest first from the medoid; a shorter result is a prefix of a longer one.

    Raises ValueError unless 1 <= count <= n.
    """
    _check(distances, count)
    chosen = [int(distances.sum(1).argmin())]
    away = distances[chosen[0]].copy()
    while len(chosen) < count:
        away[chosen] = -1.0  # all remaining points may coincide with chosen ones
        chosen.append(int(away.argmax()))
        away = np.minimum(away, distances[chosen[-1]])
    return chosen


def k_medoids(distances: Array, count: int) -> list[int]:
    """Return ``count`` indices with a low sum of distances to the nearest of them, ordered by how many points each represents.

    No swap of a chosen point for another lowers the sum. If two represent equally many points, the one with the lower mean
    distance to them comes first. Cost: n^2 per round of swaps; few rounds. Raises ValueError unless 1 <= count <= n.
    """
    _check(distances, count)
    chosen = _greedy(distances, count)
    least = _GAIN * float(distances.max())
    while count < len(distances):
        gain, new, place = _best_swap(distances, chosen)
        if gain <= least:
            break
        chosen[place] = new
    return _by_weight(distances, sorted(chosen))


def cover(distances: Array, chosen: Sequence[int]) -> Cover:
    """Return how ``chosen`` indices cover all points. Ties go to the first chosen point; a chosen point belongs to itself."""
    table = distances[list(chosen)]
    nearest = table.argmin(0)
    nearest[list(chosen)] = np.arange(len(chosen))
    away = table.min(0)
    return Cover(tuple(nearest.tolist()), tuple(away.tolist()), float(away.mean()), float(away.max()))


def random_covers(distances: Array, count: int, draws: int, seed: int = 0) -> list[Cover]:
    """Return the covers of ``draws`` random choices of ``count`` points."""
    random = np.random.default_rng(seed)
    return [cover(distances, random.choice(len(distances), count, replace=False).tolist()) for _ in range(draws)]


METHODS: dict[str, Callable[[Array, int], list[int]]] = {"k-medoids": k_medoids, "k-centre": k_centre}


def _check(distances: Array, count: int) -> None:
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or not np.isfinite(distances).all():
        raise ValueError(f"expected a square matrix of finite distances, found shape {distances.shape}")
    if not 1 <= count <= len(distances):
        raise ValueError(f"expected 1 to {len(distances)} points to choose, found {count}")


def _greedy(distances: Array, count: int) -> list[int]:
    """Return PAM's start: the medoid, then repeatedly the point that lowers the sum of distances most."""
    chosen: list[int] = []
    away = np.full(len(distances), np.inf)
    for _ in range(count):
        sums = np.minimum(distances, away).sum(1)
        sums[chosen] = np.inf
        chosen.append(int(sums.argmin()))
        away = np.minimum(away, distances[chosen[-1]])
    return chosen


def _best_swap(distances: Array, chosen: Sequence[int]) -> tuple[float, int, int]:
    """Return the gain of the best swap, the new point, and the position in ``chosen`` of the point it replaces."""
    table = distances[list(chosen)]
    nearest, away = table.argmin(0), table.min(0)
    others = np.where(np.arange(len(chosen))[:, None] == nearest, np.inf, table)
    second = others.min(0) if len(chosen) > 1 else np.full(len(away), np.inf)
    # the change of each point's distance, if its medoid stays and if its medoid is the one replaced
    stays = np.minimum(distances - away, 0.0)
    goes = np.minimum(distances, second) - away
    own = np.eye(len(chosen))[nearest]  # (n, k)
    change = stays.sum(1)[:, None] + (goes - stays) @ own
    new, place = np.unravel_index(int(change.argmin()), change.shape)
    return float(-change[new, place]), int(new), int(place)


def _by_weight(distances: Array, chosen: list[int]) -> list[int]:
    found = cover(distances, chosen)
    nearest, away = np.array(found.nearest), np.array(found.distances)
    counts = np.bincount(nearest, minlength=len(chosen))
    sums = np.bincount(nearest, weights=away, minlength=len(chosen))
    order = sorted(range(len(chosen)), key=lambda i: (-int(counts[i]), float(sums[i] / counts[i]), chosen[i]))
    return [chosen[i] for i in order]
