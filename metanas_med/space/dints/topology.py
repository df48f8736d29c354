"""Topologies of a grid of blocks and levels: counted, drawn, checked, and the most probable one.

A block has an edge from every level to itself and to its neighbours: 3 L - 2 edges. The edges of a block that are on form a pattern.
A topology is one pattern a block. It is legal if no pattern is empty, and if every block reads exactly the levels that the block
before wrote: then each edge lies on a path from input to output. Source: DiNTS, He et al. 2021, arXiv 2103.15954, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

#: Pattern of each block: bit e is on where edge e is.
Patterns = tuple[int, ...]

#: probabilities below it cost as much as it does: an architecture exists even where alphas exclude every one
TINY = 1e-30

ValueT = TypeVar("ValueT")


@lru_cache
def topology_of(levels: int) -> Topology:
    """Return the topology of a number of levels; tables of 2^(3 L - 2) patterns are made once."""
    return Topology(levels)


class Topology:
    """The edges of a block of ``levels`` levels, and everything about the patterns that they form.

    ``edges``: (source, target), sorted by target and then by source, the order of the published codes.
    """

    def __init__(self, levels: int) -> None:
        self.levels = levels
        self.edges = tuple((source, target) for target in range(levels) for source in _near(target, levels))
        self._kept: dict[int, list[dict[int, int]]] = {}

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """Which edges each pattern has: (2^E - 1, E) of 0 and 1; row p - 1 is pattern p."""
        patterns = np.arange(1, 2 ** len(self.edges))
        return (patterns[:, None] >> np.arange(len(self.edges)) & 1).astype(np.float64)

    def reads(self, pattern: int) -> int:
        """Return the set of levels that a pattern reads, as bits."""
        return _union(1 << source for e, (source, _) in enumerate(self.edges) if pattern >> e & 1)

    def writes(self, pattern: int) -> int:
        """Return the set of levels that a pattern writes, as bits."""
        return _union(1 << target for e, (_, target) in enumerate(self.edges) if pattern >> e & 1)

    @cached_property
    def _groups(self) -> dict[tuple[int, int], list[int]]:
        """Patterns by the sets of levels that they write and read, in this order."""
        found: dict[tuple[int, int], list[int]] = {}
        for pattern in range(1, 2 ** len(self.edges)):
            found.setdefault((self.writes(pattern), self.reads(pattern)), []).append(pattern)
        return dict(sorted(found.items()))

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Patterns sorted by group, where each group starts, and what the groups write and read."""
        groups = self._groups
        starts = np.cumsum([0, *(len(patterns) for patterns in groups.values())])[:-1]
        writes, reads = np.array(list(groups)).T
        return np.concatenate([np.array(patterns) for patterns in groups.values()]), starts, writes, reads

    def reason_against(self, patterns: Sequence[int]) -> str:
        """Return why a topology is not legal, as one sentence; empty if it is."""
        before = None
        for block, pattern in enumerate(patterns):
            if not pattern:
                return f"block{block} has no edge that is on: nothing reaches the output"
            if before is not None and self.reads(pattern) != before:
                own, there = levels_of(self.reads(pattern)), levels_of(before)
                return f"block{block} reads levels {own}, but block{block - 1} writes levels {there}: they must be the same"
            before = self.writes(pattern)
        return ""

    def count(self, blocks: int) -> int:
        """Return the number of legal topologies, exactly."""
        return sum(self._completions(blocks)[0].values())

    def _completions(self, blocks: int) -> list[dict[int, int]]:
        """Return for each block the number of legal ways to go on from each set of levels written before it."""
        if blocks in self._kept:
            return self._kept[blocks]
        after = dict.fromkeys(range(1, 2**self.levels), 1)
        found = []
        for _ in range(blocks):
            now = dict.fromkeys(after, 0)
            for (write, read), patterns in self._groups.items():
                now[read] += len(patterns) * after[write]
            found.append(now)
            after = now
        self._kept[blocks] = found[::-1]
        return self._kept[blocks]

    def draw(self, blocks: int, generator: torch.Generator | None = None) -> Patterns:
        """Return a legal topology; each is exactly equally probable."""
        ways = self._completions(blocks)
        read = _draw_weighted(list(ways[0].items()), generator)
        found = []
        for block in range(blocks):
            after = ways[block + 1] if block + 1 < blocks else None
            options = [
                ((write, patterns), len(patterns) * (after[write] if after else 1))
                for (write, own), patterns in self._groups.items()
                if own == read
            ]
            read, patterns = _draw_weighted(options, generator)
            found.append(patterns[_below(len(patterns), generator)])
        return tuple(found)

    def most_probable(self, on: NDArray[np.float64]) -> Patterns:
        """Return the legal topology of the highest probability; ``on``: (blocks, E) probabilities that the edges are on."""
        yes, no = (-np.log(np.maximum(p, TINY)) for p in (on, 1 - on))
        return self.cheapest((yes - no) @ self.bits.T + no.sum(1, keepdims=True))

    def cheapest(self, costs: NDArray[np.float64]) -> Patterns:
        """Return the legal topology whose patterns cost least in sum; ``costs``: (blocks, 2^E - 1), infinite for what is not allowed.

        A shortest path in a graph of layers, so that each layer is settled once: Dijkstra without a queue. Of the patterns that
        write and read the same levels, only the cheapest can lie on it.
        """
        order, starts, writes, reads = self._order
        sorted_costs = costs[:, order - 1]
        best = np.minimum.reduceat(sorted_costs, starts, axis=1)
        firsts = np.flatnonzero(np.r_[True, writes[1:] != writes[:-1]])  # groups are sorted by what they write
        sums = []
        state = np.zeros(2**self.levels)
        for row in best:
            sums.append(state[reads] + row)
            state = np.full(2**self.levels, np.inf)
            state[writes[firsts]] = np.minimum.reduceat(sums[-1], firsts)
        found: list[int] = []
        allowed = np.ones(len(writes), dtype=bool)
        for block in range(len(costs) - 1, -1, -1):
            group = int(np.where(allowed, sums[block], np.inf).argmin())
            end = starts[group + 1] if group + 1 < len(starts) else len(order)
            found.append(int(order[starts[group] + sorted_costs[block, starts[group] : end].argmin()]))
            allowed = writes == reads[group]
        return tuple(found[::-1])

    def nearest(self, patterns: Sequence[int], block: int, edge: int) -> Patterns:
        """Return the legal topology nearest to ``patterns`` in which ``edge`` of ``block`` is changed: the fewest other changes."""
        own = self.bits[np.array(patterns) - 1]
        costs = own @ (1 - self.bits.T) + (1 - own) @ self.bits.T
        costs[block, self.bits[:, edge] == own[block, edge]] = np.inf
        return self.cheapest(costs)


def count_topologies(blocks: int, levels: int) -> int:
    """Return the number of legal topologies of a grid, exactly: 99 for 2 blocks of 2 levels, about 1.6e30 for 12 of 4."""
    return topology_of(levels).count(blocks)


def _near(level: int, levels: int) -> range:
    return range(max(level - 1, 0), min(level + 2, levels))


def _union(sets: Iterable[int]) -> int:
    found = 0
    for one in sets:
        found |= one
    return found


def levels_of(levels: int) -> list[int]:
    """Return the levels of a set that is given as bits."""
    return [level for level in range(levels.bit_length()) if levels >> level & 1]


def _below(count: int, generator: torch.Generator | None) -> int:
    """Return a whole number below ``count`` (of any size), each exactly equally probable."""
    words = -(-max(count - 1, 1).bit_length() // 32)
    while True:
        value = 0
        for word in torch.randint(2**32, (words,), generator=generator).tolist():
            value = value << 32 | word
        value >>= 32 * words - max(count - 1, 1).bit_length()
        if value < count:
            return value


def _draw_weighted(options: Sequence[tuple[ValueT, int]], generator: torch.Generator | None) -> ValueT:
    """Return one of the options (value, weight); weights are whole numbers of any size."""
    place = _below(sum(weight for _, weight in options), generator)
    for value, weight in options:
        place -= weight
        if place < 0:
            return value
    raise AssertionError("weights changed")
