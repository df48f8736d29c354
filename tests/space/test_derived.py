"""The derived network is the supernet at one-hot alphas, without what was not chosen."""

from __future__ import annotations

import json

import pytest
import torch

from metanas_med.space import (
    UNetSupernetSettings,
    build_derived,
    derive,
    genotype,
    get_space,
    one_hot_alphas,
    random_genotype,
)

SMALL = {"base_width": 4, "max_width": 12, "coarse_from": 1, "search_depth": True}


def randomise(body: torch.nn.Module, generator: torch.Generator) -> None:
    """Move gains, norms and weights away from their start, so that a forgotten one shows."""
    with torch.no_grad():
        for name, value in body.state_dict().items():
            if name.endswith("gain"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith(("norm.weight", "norm.bias")):
                value.add_(torch.randn(value.shape, generator=generator) * 0.2)


@pytest.mark.parametrize("seed", range(12))
def test_equals_supernet_at_one_hot(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    nodes = [(1, 2, 2, 2), (2, 3), (1,), (3, 2)][seed % 4]
    settings = UNetSupernetSettings(dims=2 if seed % 5 == 4 else 3, nodes=nodes, **SMALL)  # type: ignore[arg-type]
    strides = [((2, 2, 1), (2, 2, 2), (2, 2, 2)), ((2, 2, 2),) * 3, ((2, 2, 1),) * 3][seed % 3]
    body = get_space(settings).build(None, generator)
    randomise(body, generator)
    chosen = random_genotype(settings, generator)
    one_hot_alphas(body, chosen)
    assert genotype(body) == chosen == json.loads(json.dumps(chosen))
    derived = derive(body, chosen)
    assert not derived.alphas()
    assert {name: value.shape for name, value in derived.state_dict().items()}.items() <= {
        name: value.shape for name, value in body.state_dict().items()
    }.items()
    x = torch.randn(2, 4, 13, 12, 6, generator=generator)
    expected, found = body(x, strides), derived(x, strides)
    assert len(found) == int(chosen["picks"]["depth"]) and len(expected) == 4
    for one, other in zip(expected, found, strict=False):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    for rest in expected[len(found) :]:
        assert not rest.any()
    again = build_derived(json.loads(json.dumps(chosen)))
    state = body.state_dict()
    again.load_state_dict({name: state[name] for name in again.state_dict()})
    for one, other in zip(found, again(x, strides), strict=True):
        assert torch.equal(one, other)
