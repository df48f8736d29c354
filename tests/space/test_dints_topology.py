"""DiNTS: counts of topologies, legal ones, the most probable one, random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metanas_med.space.dints import count_topologies
from metanas_med.space.dints.topology import topology_of

from .dints_networks import generator


@pytest.mark.parametrize(
    ("blocks", "levels", "count"),
    [(2, 2, 99), (2, 3, 4999), (3, 3, 227_935), (12, 4, 1_607_993_224_832_840_742_702_868_269_231)],
)
def test_number_of_topologies(blocks: int, levels: int, count: int) -> None:
    assert count_topologies(blocks, levels) == count


def test_number_of_topologies_by_enumeration() -> None:
    grid = topology_of(2)
    legal = [(a, b) for a in range(16) for b in range(16) if not grid.reason_against((a, b))]
    assert len(legal) == 99 and all(a and b and grid.writes(a) == grid.reads(b) for a, b in legal)


def test_edges_are_in_the_order_of_the_published_codes() -> None:
    edges = topology_of(4).edges
    assert [source for source, _ in edges] == [0, 1, 0, 1, 2, 1, 2, 3, 2, 3]
    assert [target for _, target in edges] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]


def connected(grid: Any, patterns: tuple[int, ...]) -> bool:
    """Return whether every edge that is on lies on a path from a read level of the first block to a written one of the last."""
    edges = {(b, *pair) for b, p in enumerate(patterns) for e, pair in enumerate(grid.edges) if p >> e & 1}
    forward = {edge for edge in edges if edge[0] == 0}
    backward = {edge for edge in edges if edge[0] == len(patterns) - 1}
    for _ in patterns:
        forward |= {edge for edge in edges if any(f[0] == edge[0] - 1 and f[2] == edge[1] for f in forward)}
        backward |= {edge for edge in edges if any(f[0] == edge[0] + 1 and f[1] == edge[2] for f in backward)}
    return bool(edges) and forward == backward == edges


def test_decoded_networks_are_connected() -> None:
    grid, rng = topology_of(4), np.random.default_rng(0)
    for trial in range(1000):
        patterns = grid.most_probable(1 / (1 + np.exp(-rng.normal(rng.normal(), 2, (12, 10)))))
        assert not grid.reason_against(patterns)
        assert trial % 20 or connected(grid, patterns)


def test_the_decoded_topology_is_the_most_probable_of_all() -> None:
    grid, rng = topology_of(3), np.random.default_rng(0)
    count = len(grid.bits)
    reads, writes = (np.array([f(p) for p in range(1, count + 1)]) for f in (grid.reads, grid.writes))
    fits = writes[:, None] == reads[None]
    first, second = np.nonzero(fits)
    pairs = np.nonzero(writes[second][:, None] == reads[None])
    first, second, third = first[pairs[0]], second[pairs[0]], pairs[1]
    assert len(first) == 227_935
    for _ in range(60):
        p = rng.random((3, 7)) ** rng.choice([0.3, 1, 3])
        logs = np.log(np.where(grid.bits[None] > 0, p[:, None], 1 - p[:, None])).sum(2)
        best = (logs[0][first] + logs[1][second] + logs[2][third]).max()
        found = grid.most_probable(p)
        assert sum(logs[b][pattern - 1] for b, pattern in enumerate(found)) == pytest.approx(best, abs=1e-9)


def test_draws_are_uniform() -> None:
    grid, rng = topology_of(2), generator()
    draws = [grid.draw(2, rng) for _ in range(3000)]
    counts = np.array([draws.count(found) for found in set(draws)])
    assert len(counts) == 99  # all of them
    assert ((counts - 3000 / 99) ** 2 / (3000 / 99)).sum() < 140  # chi-squared of 98 degrees: 99.6 %


def test_draws_reach_the_whole_of_a_large_space() -> None:
    grid, rng = topology_of(4), generator()
    draws = [grid.draw(12, rng) for _ in range(1000)]
    assert not any(grid.reason_against(found) for found in draws) and len(set(draws)) == 1000
