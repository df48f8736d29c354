"""Paths through a grid of layers and levels: which moves there are, how probable each place is, the best path, random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..choice import Choice

#: change of the level by the name of a move; ``down`` is to the next coarser level
MOVES = {"same": 0, "down": 1, "up": -1}

Place = tuple[int, int]  #: layer, level


def moves_at(level: int, levels: int) -> tuple[str, ...]:
    """Return the moves that stay within the grid."""
    return tuple(name for name, change in MOVES.items() if 0 <= level + change < levels)


def row_of(place: Place) -> str:
    """Return the name of the row of moves at a place."""
    return f"path{place[0]}/level{place[1]}"


def places(layers: int, levels: int) -> Iterator[Place]:
    """Yield all places that paths from (0, 0) can reach, in the order of layers."""
    for layer in range(layers):
        for level in range(min(layer + 1, levels)):
            yield layer, level


@dataclass
class Flow:
    """How probable the places and moves of one forward pass are. None is 1; what is absent does not run."""

    reach: dict[Place, Tensor | None] = field(default_factory=dict)
    #: place -> (source level, probability of that move, given that its target is reached, and is it detached)
    sources: dict[Place, list[tuple[int, Tensor | None, bool]]] = field(default_factory=dict)
    moves: dict[tuple[int, int, int], Tensor | None] = field(default_factory=dict)  #: (layer, level, next level)
    visited: dict[int, Tensor | None] = field(default_factory=dict)  #: level -> P(some layer of the path is at it)


def flow_of(choice: Choice, layers: int, levels: int, path: Sequence[int] | None) -> Flow:
    """Return the flow of a supernet, or of the path (the level of each layer) of a discrete network."""
    flow = Flow({(0, 0): None}, visited={0: None})
    if path is not None:
        for layer, (level, after) in enumerate(zip(path, path[1:], strict=False)):
            flow.reach[layer + 1, after] = flow.moves[layer, level, after] = None
            flow.sources[layer + 1, after] = [(level, None, False)]
        flow.visited = dict.fromkeys(range(max(path) + 1))
        return flow
    for place in places(layers - 1, levels):
        if place not in flow.reach:
            continue
        names = moves_at(place[1], levels)
        for option in choice.options(row_of(place), len(names)):
            p = choice.rows[row_of(place)][option] if row_of(place) in choice.rows else None
            move = (*place, place[1] + MOVES[names[option]])
            target = (place[0] + 1, move[2])
            flow.moves[move] = q = _times(flow.reach[place], p)
            flow.reach[target] = _plus(flow.reach[target], q) if target in flow.reach else q
            flow.sources.setdefault(target, []).append((place[1], q, choice.is_detached(row_of(place), option)))
    for target, found in flow.sources.items():
        total = flow.reach[target]
        shares = [None if len(found) == 1 or q is None or total is None else q / total.clamp(min=1e-6) for _, q, _ in found]
        flow.sources[target] = [(level, share, off) for (level, _, off), share in zip(found, shares, strict=True)]
    flow.visited.update(_visited(choice, flow, layers, levels))
    return flow


def _visited(choice: Choice, flow: Flow, layers: int, levels: int) -> dict[int, Tensor | None]:
    """Return for levels 1 and more the probability that the path comes to them: it does so first by a move down from the level above."""
    found: dict[int, Tensor | None] = {}
    for goal in range(1, levels):
        stays: dict[int, Tensor | None] = {0: None}  # probability of each level, and of not having been at the goal
        for layer in range(layers - 1):
            after: dict[int, Tensor | None] = {}
            for (at, level, target), _ in flow.moves.items():
                if at != layer or level not in stays:
                    continue
                row = choice.rows.get(row_of((layer, level)))
                option = [MOVES[name] for name in moves_at(level, levels)].index(target - level)
                p = _times(stays[level], None if row is None else row[option])
                into = found if target == goal else after
                into[target] = _plus(into[target], p) if target in into else p
            stays = after
    return found


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    assert a is not None and b is not None, "two certain moves into one place"
    return a + b


def best_path(logs: Mapping[str, Tensor], layers: int, levels: int) -> list[int]:
    """Return the levels of the most probable path; ``logs``: logarithms of the probabilities of moves by row (Viterbi)."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for layer in range(layers - 1):
        after: dict[int, tuple[float, list[int]]] = {}
        for level, (score, path) in best.items():
            names = moves_at(level, levels)
            row = logs.get(row_of((layer, level)))
            for option, name in enumerate(names):
                found = score + (0.0 if row is None else float(row[option]))
                target = level + MOVES[name]
                if target not in after or found > after[target][0]:
                    after[target] = (found, [*path, target])
        best = after
    return max(best.values(), key=lambda found: found[0])[1]


def draw_path(layers: int, levels: int, generator: torch.Generator | None = None) -> list[int]:
    """Return the levels of a random path; all paths are equally probable."""
    ways = [[1] * levels]
    for _ in range(layers - 1):
        ways.append([sum(ways[-1][max(level - 1, 0) : level + 2]) for level in range(levels)])
    path = [0]
    for layer in range(1, layers):
        near = [path[-1] + change for change in MOVES.values() if 0 <= path[-1] + change < levels]
        weights = torch.tensor([ways[layers - 1 - layer][level] for level in near], dtype=torch.float64)
        path.append(near[int(torch.multinomial(weights, 1, generator=generator))])
    return path
