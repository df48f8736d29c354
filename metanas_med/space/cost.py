"""What a network costs: parameters and multiply-adds of one sample, exactly for a discrete one, in expectation for a supernet.

Multiply-adds are counted by torch (counting.py) on the network that a space builds, padding included: pseudo-3D and depthwise-separable
convolutions count factored in a discrete network. A count takes about as long as building a network twice, and is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import Body, Picks, Triple, decode_picks, draw_picks, edit_picks, reason_against
from .counting import count_multiply_adds
from .genotype import read_genotype, write_genotype
from .registry import get_space
from .settings import SpaceSettings
from .sketch import Sketch, sketch

Strides = Sequence[Sequence[int]]


def cost(body: Body, shape: Sequence[int], strides: Strides) -> dict[str, int]:
    """Return ``{"parameters", "multiply_adds"}`` of one sample of ``shape`` (X, Y, Z) as the body runs it.

    A supernet counts as what one step of it runs: an edge is one dense convolution (or every candidate, where they run separately)
    and its unmerged candidates.
    """
    total = _count(sketch(body.settings, body.picks), _triple(shape), _triples(strides))
    return {"parameters": sum(value.numel() for value in body.weights().values()), "multiply_adds": total}


def supernet_multiply_adds(settings: SpaceSettings, shape: Sequence[int], strides: Strides) -> int:
    """Return the multiply-adds that ``cost`` counts for the supernet of ``settings`` on a sample of ``shape``."""
    return _count(sketch(settings, None), _triple(shape), _triples(strides))


def genotype_multiply_adds(genotype: Mapping[str, Any], shape: Sequence[int], strides: Strides) -> int:
    """Return the multiply-adds of one sample of ``shape`` (X, Y, Z) through a genotype's network."""
    return _count(sketch(*read_genotype(genotype)), _triple(shape), _triples(strides))


def expected_multiply_adds(body: Body, shape: Sequence[int], strides: Strides) -> Tensor:
    """Return the mean multiply-adds over architectures drawn from the alphas as ``body.relaxed`` weighs them: a scalar with gradients.

    Of a discrete body it is the exact cost. A body's own ``expected_multiply_adds`` is used where it has one. Otherwise it is the
    cost of the most probable architecture, plus the sum over rows and options of the weight of the option times the difference that
    this one change makes. This is exact at one-hot alphas, for one change, and wherever the costs of rows add up. A change that would
    be illegal counts as no difference.
    """
    if body.picks is not None:
        return torch.tensor(float(cost(body, shape, strides)["multiply_adds"]), device=next(body.parameters()).device)
    own = getattr(body, "expected_multiply_adds", None)
    if own is not None:
        return own(shape, strides)
    weights = {name: row for name, row in body.probabilities().items() if name in body.space.rows()}
    top = decode_picks(body.space, weights)
    base, differences = _table(body.settings, tuple(top.items()), tuple(weights), _triple(shape), _triples(strides))
    device = next(body.parameters()).device
    total = torch.tensor(float(base), device=device)
    for name, row in weights.items():
        total = total + row @ torch.tensor(differences[name], dtype=row.dtype, device=row.device)
    return total


def random_genotype_of_cost(
    settings: SpaceSettings,
    target_multiply_adds: float,
    tolerance: float,
    shape: Sequence[int],
    strides: Strides,
    generator: torch.Generator | None = None,
    tries: int = 10_000,
) -> dict[str, Any]:
    """Return a random genotype whose multiply-adds are within ``tolerance`` (a share) of the target.

    A random walk: an architecture is drawn uniformly, then one row after another is redrawn, and kept where that is no farther from
    the target; costs at the tail of the space are reached too. Raises ConfigError if ``tries`` architectures hold none.
    """
    space = get_space(settings)
    rows, size, steps = space.rows(), _triple(shape), _triples(strides)
    names, picks, nearest = list(rows), draw_picks(space, generator), math.inf
    kept, own_edits = picks, hasattr(space, "edits")
    best, waits = nearest, 0  # of all walks; draws since this walk came nearer
    for _ in range(tries):
        found = _count(sketch(settings, picks), size, steps)
        if abs(found - target_multiply_adds) <= tolerance * target_multiply_adds:
            return write_genotype(space, picks)
        waits += 1
        if abs(found - target_multiply_adds) <= abs(nearest - target_multiply_adds):
            waits = waits if found == nearest else 0
            nearest, kept = found, picks
            best = min(best, nearest, key=lambda value: abs(value - target_multiply_adds))
        if own_edits:
            edits = list(edit_picks(space, kept))
            if waits > 3 * len(edits):  # no edit is nearer: another walk
                picks, nearest, waits = draw_picks(space, generator), math.inf, 0
                continue
            picks = edits[int(torch.randint(len(edits), (), generator=generator))] if edits else draw_picks(space, generator)
            continue
        changed = names[int(torch.randint(len(names), (), generator=generator))]
        redrawn = {**kept, changed: int(torch.randint(len(rows[changed].options), (), generator=generator))}
        picks = redrawn if not reason_against(space, redrawn) else draw_picks(space, generator)
    raise ConfigError(f"no architecture of {target_multiply_adds:.3g} multiply-adds in {tries} draws; the nearest has {best:.3g}")


def _triple(shape: Sequence[int]) -> Triple:
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def _triples(strides: Strides) -> tuple[Triple, ...]:
    return tuple(_triple(stride) for stride in strides)


@lru_cache(maxsize=4096)
def _count(network: Sketch, shape: Triple, strides: tuple[Triple, ...]) -> int:
    """Return the multiply-adds of a network."""
    return count_multiply_adds(lambda x: network.body(x, strides), network.body.in_width, shape)


@lru_cache(maxsize=64)
def _table(
    settings: SpaceSettings,
    top: tuple[tuple[str, int], ...],
    names: tuple[str, ...],
    shape: Triple,
    strides: tuple[Triple, ...],
) -> tuple[int, dict[str, list[float]]]:
    """Return the cost of an architecture, and the difference that each option of the rows ``names`` makes to it."""
    space, picks = get_space(settings), dict(top)
    rows = space.rows()

    def at(changes: Picks) -> int:
        return _count(sketch(settings, {**picks, **changes}), shape, strides)

    def difference(name: str, option: int) -> float:
        changes = {name: option}
        return 0.0 if reason_against(space, {**picks, **changes}) else float(at(changes) - base)

    base = at({})
    return base, {name: [difference(name, option) for option in range(len(rows[name].options))] for name in names}
