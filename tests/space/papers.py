"""What must hold in the space of every paper: each check takes settings, and runs in a fraction of a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metanas_med.space import (
    Body,
    SpaceSettings,
    build_derived,
    cost,
    derive,
    expected_multiply_adds,
    genotype,
    get_space,
    hash_genotype,
    neighbours,
    one_hot_alphas,
    random_genotype,
    read_genotype,
    write_genotype,
)
from metanas_med.space.base import reason_against

SHAPE, STRIDES = (7, 10, 5), ((2, 2, 1), (2, 2, 2), (1, 2, 2))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def body_of(settings: SpaceSettings, found: dict[str, Any] | None = None, seed: int = 0) -> Body:
    """Return a supernet, or the network of a genotype, in float64, with weights that no constant hides."""
    torch.manual_seed(seed)
    body = get_space(settings).build(None) if found is None else build_derived(found)
    with torch.no_grad():
        for name, value in body.named_parameters():
            if not name.startswith("alphas."):
                value.add_(torch.randn_like(value) * 0.2)
    return body.double()


def batch(body: Body, samples: int = 2, shape: Sequence[int] = SHAPE) -> Tensor:
    return torch.randn(samples, body.in_width, *shape, generator=generator(1), dtype=torch.float64)


def check_shapes(settings: SpaceSettings) -> None:
    """The supernet and a random network return features of the promised shapes at odd sizes, strides (2, 2, 1) included."""
    for body in (body_of(settings), body_of(settings, random_genotype(settings, generator()))):
        x = batch(body)
        features = body.eval()(x, STRIDES)
        assert [f.shape[1] for f in features] == list(body.widths)
        sizes = [tuple(f.shape[2:]) for f in features]
        assert sizes[0] == SHAPE and all(torch.isfinite(f).all() for f in features)
        if not body.takes_images:
            flat = settings.dims == 2
            expected = [SHAPE, (4, 5, 5), (2, 3, 5) if flat else (2, 3, 3), (2, 2, 5) if flat else (2, 2, 2)]
            assert sizes == expected[: len(sizes)]


def check_one_hot(settings: SpaceSettings, found: dict[str, Any]) -> None:
    """At one-hot alphas the supernet is the derived network, and so are its expected and exact costs.

    Sampled rows take their first option: the supernet's own.
    """
    space, body = get_space(settings), body_of(settings)
    picks = read_genotype(found)[1]
    found = write_genotype(
        space, {name: 0 if row.type == "sampled" else picks.get(name, 0) for name, row in space.rows().items()}
    )
    one_hot_alphas(body, found)
    derived, x = derive(body, found), batch(body)
    assert genotype(derived) == found and not derived.alphas()
    for one, other in zip(body.eval()(x, STRIDES), derived.eval()(x, STRIDES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert derived.state_dict().keys() <= body.state_dict().keys()
    exact = cost(derived, SHAPE, STRIDES)
    assert genotype(body) == found
    for net in (body, derived):
        assert expected_multiply_adds(net, SHAPE, STRIDES).item() == pytest.approx(exact["multiply_adds"], rel=1e-6)
    assert exact["parameters"] == sum(p.numel() for p in derived.parameters())


def check_cost(settings: SpaceSettings, found: dict[str, Any]) -> None:
    """The exact cost is what torch counts on real data."""
    body = build_derived(found).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        body(torch.randn(1, body.in_width, *SHAPE), STRIDES)
    assert 2 * cost(body, SHAPE, STRIDES)["multiply_adds"] == counter.get_total_flops()


def check_draws(settings: SpaceSettings, count: int = 1000) -> None:
    """Random genotypes are legal, and survive JSON."""
    space, draws, seen = get_space(settings), generator(), set()
    for _ in range(count):
        found = random_genotype(settings, draws)
        _, picks = read_genotype(json.loads(json.dumps(found)))
        assert not reason_against(space, picks) and write_genotype(space, picks) == found
        seen.add(json.dumps(found["picks"]))
    assert len(seen) > min(count, 50) / 2


def check_neighbours(found: dict[str, Any], most: int = 400, hashed: int = 12) -> int:
    """Neighbours are legal, differ in one row that both have, and build other networks. Return their number."""
    settings, own = read_genotype(found)
    space = get_space(settings)
    near = list(islice(neighbours(found), most))
    assert len({json.dumps(other["picks"]) for other in (found, *near)}) == len(near) + 1
    for other in near:
        picks = read_genotype(other)[1]
        assert not reason_against(space, picks)
        changed = [row for row in own.keys() & picks.keys() if own[row] != picks[row]]
        assert len(changed) == 1 or own.keys() != picks.keys(), changed
    some = near[:: max(1, len(near) // hashed)]
    assert len({hash_genotype(other) for other in (found, *some)}) == len(some) + 1
    return len(near)
