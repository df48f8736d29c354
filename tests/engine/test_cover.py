"""Choosing points that cover the rest: against brute force over all subsets, and by what the methods promise."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from metanas_med.engine.cover import METHODS, Array, cover, feature_distances, k_centre, k_medoids, random_covers


def between(points: np.ndarray) -> Array:
    return np.asarray(cdist(points, points), dtype=np.float64)


def random_points(seed: int, number: int = 9, dims: int = 2) -> Array:
    points = np.random.default_rng(seed).normal(size=(number, dims))
    return between(points)


def sum_of(distances: Array, chosen: tuple[int, ...] | list[int]) -> float:
    return float(distances[list(chosen)].min(0).sum())


def radius_of(distances: Array, chosen: tuple[int, ...] | list[int]) -> float:
    return float(distances[list(chosen)].min(0).max())


def clusters() -> tuple[Array, list[int]]:
    """Three tight, far groups of 2, 5 and 3 points, shuffled; and each point's group."""
    random = np.random.default_rng(5)
    groups = np.repeat([0, 1, 2], [2, 5, 3])
    points = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 80.0]])[groups] + random.normal(size=(10, 2))
    order = random.permutation(10)
    return between(points[order]), groups[order].tolist()


@pytest.mark.parametrize(("seed", "count"), list(product(range(15), [1, 2, 3, 4])))
def test_k_centre_is_within_twice_the_best_radius(seed: int, count: int) -> None:
    distances = random_points(seed)
    best = min(radius_of(distances, subset) for subset in combinations(range(9), count))
    assert best <= radius_of(distances, k_centre(distances, count)) <= 2 * best + 1e-12


@pytest.mark.parametrize(("seed", "count"), list(product(range(15), [1, 2, 3, 4])))
def test_no_exchange_improves_k_medoids(seed: int, count: int) -> None:
    """Exchanges one by one, as PAM is written down. Such an end is within five times the best (Arya et al. 2004); one medoid is the best."""
    distances = random_points(seed)
    chosen = k_medoids(distances, count)
    reached = sum_of(distances, chosen)
    for place, new in product(range(count), range(9)):
        if new not in chosen:
            assert sum_of(distances, [*chosen[:place], new, *chosen[place + 1 :]]) >= reached - 1e-12
    best = min(sum_of(distances, subset) for subset in combinations(range(9), count))
    assert best - 1e-12 <= reached <= 5 * best
    if count == 1:
        assert reached == pytest.approx(best)


def test_k_medoids_is_mostly_the_best_of_all_subsets_and_swaps_help() -> None:
    """The greedy start alone misses the best set more often than the whole."""
    from metanas_med.engine.cover import _greedy

    greedy = swapped = 0
    for seed in range(40):
        distances = random_points(seed, 10)
        best = min(sum_of(distances, subset) for subset in combinations(range(10), 3))
        greedy += sum_of(distances, _greedy(distances, 3)) <= best + 1e-12
        swapped += sum_of(distances, k_medoids(distances, 3)) <= best + 1e-12
    assert swapped >= 34 > greedy


def test_clear_groups_are_found_and_ranked_by_their_size() -> None:
    distances, groups = clusters()
    chosen = k_medoids(distances, 3)
    assert [groups[i] for i in chosen] == [1, 2, 0]
    best = min(combinations(range(10), 3), key=lambda subset: sum_of(distances, subset))
    assert sum_of(distances, chosen) == pytest.approx(sum_of(distances, best))
    assert sorted(groups[i] for i in k_centre(distances, 3)) == [0, 1, 2]


def test_equally_large_groups_are_ranked_by_how_near_they_are() -> None:
    points = np.array([[0.0], [3.0], [6.0], [100.0], [101.0], [102.0]])
    assert k_medoids(between(points), 2) == [4, 1]


def test_k_centre_is_nested_and_begins_at_the_medoid() -> None:
    distances = random_points(3, 12)
    longest = k_centre(distances, 12)
    assert longest[0] == int(distances.sum(1).argmin()) and sorted(longest) == list(range(12))
    assert all(k_centre(distances, count) == longest[:count] for count in range(1, 12))
    for count in range(1, 12):  # the next one is the farthest from those before it
        away = distances[longest[:count]].min(0)
        assert away[longest[count]] == away.max()


@pytest.mark.parametrize("method", METHODS)
def test_ties_and_coincident_points(method: str) -> None:
    nothing = np.zeros((4, 4))
    assert sorted(METHODS[method](nothing, 3)) == [0, 1, 2]
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    square = between(corners)
    assert METHODS[method](square, 2) == {"k-centre": [0, 3], "k-medoids": [0, 1]}[method]
    assert METHODS[method](square, 1) == [0]
    pairs = between(np.repeat(corners, 2, axis=0))
    assert sorted(i // 2 for i in METHODS[method](pairs, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", METHODS)
def test_all_points_or_too_many(method: str) -> None:
    distances = random_points(0, 5)
    assert sorted(METHODS[method](distances, 5)) == list(range(5))
    for count in (0, 6):
        with pytest.raises(ValueError, match="expected 1 to 5 points"):
            METHODS[method](distances, count)
    with pytest.raises(ValueError, match="square matrix"):
        METHODS[method](distances[:3], 2)


def test_cover_against_a_loop() -> None:
    distances = random_points(7, 11)
    chosen = [4, 9, 2]
    found = cover(distances, chosen)
    for point in range(11):
        away = [distances[c, point] for c in chosen]
        assert found.nearest[point] == int(np.argmin(away)) and found.distances[point] == min(away)
    assert found.mean == pytest.approx(np.mean(found.distances)) and found.farthest == max(found.distances)


def test_a_chosen_point_represents_itself_next_to_its_copy() -> None:
    assert cover(np.zeros((3, 3)), [2, 0]).nearest == (1, 0, 0)


def test_distances_of_features_do_not_know_their_units() -> None:
    features = np.random.default_rng(1).normal(size=(8, 5))
    standard = (features - features.mean(0)) / features.std(0)
    expected = cdist(standard, standard) / np.sqrt(5)
    found = feature_distances(features)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(feature_distances(features * [1e-6, 1, 1e6, -3, 7] + 40), expected, atol=1e-8)
    assert (found == found.T).all() and (np.diag(found) == 0).all()


def test_a_constant_feature_is_no_difference() -> None:
    """Nor is one that differs by rounding alone."""
    random = np.random.default_rng(1)
    features, noise = random.normal(size=(7, 3)), random.normal(size=(7, 1))
    for constant in (np.zeros((7, 1)), 0.7 + 1e-13 * noise):
        found = feature_distances(np.hstack([features, constant]))
        np.testing.assert_allclose(found, feature_distances(features) * np.sqrt(3 / 4), atol=1e-12)
    small = feature_distances(np.hstack([features, 1e-13 * noise]))
    np.testing.assert_allclose(small, feature_distances(np.hstack([features, noise])), atol=1e-12)


def test_random_choices_cover_worse_than_chosen_ones() -> None:
    distances = random_points(11, 40)
    assert all(c.mean == 0 for c in random_covers(distances, 40, 5))  # no point twice
    drawn = random_covers(distances, 4, 100)
    assert drawn == random_covers(distances, 4, 100) != random_covers(distances, 4, 100, seed=1)
    assert cover(distances, k_medoids(distances, 4)).mean < np.percentile([c.mean for c in drawn], 5)
    assert cover(distances, k_centre(distances, 4)).farthest < np.median([c.farthest for c in drawn])
