"""Pieces of organs, compared with a search from voxel to voxel."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metanas_med.data.pieces import drop_small, in_one_piece


def walked(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Return the pieces of ``mask`` by a simple search, in the order of their first voxels."""
    left = {tuple(int(i) for i in v) for v in np.argwhere(mask)}
    pieces = []
    for start in sorted(left):
        if start not in left:
            continue
        piece, front = {start}, [start]
        left.discard(start)
        while front:
            x, y, z = front.pop()
            near = {(x + a, y + b, z + c) for a, b, c in product((-1, 0, 1), repeat=3)} & left
            left -= near
            piece |= near
            front += near
        pieces.append(piece)
    return pieces


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.3))
def test_pieces_under_a_quarter_of_the_largest_are_dropped(seed: int, density: float) -> None:
    random = np.random.default_rng(seed)
    label = (random.random((9, 7, 6)) < density) * random.integers(1, 4, (9, 7, 6))
    label = label.astype(np.uint8)
    wanted = label.copy()
    for k in (1, 3):  # organ 2 is not changed
        pieces = walked(label == k)
        most = max(map(len, pieces), default=0)
        for voxel in (v for piece in pieces if 4 * len(piece) < most for v in piece):
            wanted[voxel] = 0
    found = drop_small(label.copy(), (True, False, True))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(drop_small(label.copy(), ()), label)  # a plan without this information


def map_of(*blocks: tuple[int, int, int]) -> np.ndarray:
    """Return a map (40, 4, 4) of blocks (organ, start, length) along its first axis."""
    label = np.zeros((40, 4, 4), dtype=np.uint8)
    for organ, start, length in blocks:
        label[start : start + length] = organ
    return label


ONE = map_of((1, 2, 10), (2, 20, 5))
CRUMB = map_of((1, 2, 10), (2, 20, 5))
CRUMB[30, 0, 0] = 1  # one voxel of 161
TWO = map_of((1, 2, 10), (1, 15, 2), (2, 20, 5))
WITHOUT = map_of((2, 20, 5))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([ONE, ONE, ONE], (True, True)),
        ([ONE, CRUMB, ONE], (True, True)),  # a stray annotated voxel does not count as a second piece
        ([ONE, ONE, ONE, TWO], (False, True)),
        ([ONE, ONE], (False, False)),  # too few scans
        ([ONE, ONE, WITHOUT], (False, True)),  # a scan without the organ does not count for it
        ([ONE, ONE, WITHOUT, ONE], (True, True)),
    ],
)
def test_all_support_scans_must_show_an_organ_in_one_piece(labels: list[np.ndarray], expected: tuple[bool, bool]) -> None:
    assert in_one_piece(labels, 2) == expected
    assert in_one_piece(labels, 3)[2] is False  # an organ that no scan holds
