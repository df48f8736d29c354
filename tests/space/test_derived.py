"""The derived network is the supernet at one-hot alphas, without what was not chosen."""

from __future__ import annotations

import json

import pytest
import torch

from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.space import (
    Supernet,
    UNetSupernetSettings,
    build_derived,
    derive,
    genotype,
    one_hot_alphas,
    random_genotype,
    validate_genotype,
)

SMALL = {"base_width": 4, "max_width": 12, "coarse_from": 1, "search_depth": True}


def randomise(body: torch.nn.Module, generator: torch.Generator) -> None:
    """Move gains, norms and weights away from where they are born, so that a forgotten one shows."""
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
    body = Supernet(settings, generator)
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
    assert len(found) == chosen["depth"] and len(expected) == 4
    for one, other in zip(expected, found, strict=False):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    for rest in expected[len(found) :]:
        assert not rest.any()
    again = build_derived(json.loads(json.dumps(chosen)))
    again.load_from(body.state_dict())
    for one, other in zip(found, again(x, strides), strict=True):
        assert torch.equal(one, other)


def test_the_order_of_a_nodes_inputs_in_a_genotype_is_nothing() -> None:
    settings = UNetSupernetSettings(nodes=(2, 3), **SMALL)  # type: ignore[arg-type]
    body = Supernet(settings, torch.Generator().manual_seed(0))
    chosen = random_genotype(settings, torch.Generator().manual_seed(3))
    turned = json.loads(json.dumps(chosen))
    for cell in turned["cells"].values():
        for node in cell["nodes"]:
            node["inputs"] = dict(reversed(node["inputs"].items()))
    assert json.dumps(turned) != json.dumps(chosen)
    one_hot_alphas(body, chosen)
    expected = {name: a.detach().clone() for name, a in body.alphas().items()}
    one_hot_alphas(body, turned)
    assert all(torch.equal(a, expected[name]) for name, a in body.alphas().items())


def test_damaged_genotypes_are_refused() -> None:
    settings = UNetSupernetSettings(**SMALL)  # type: ignore[arg-type]
    good = random_genotype(settings, torch.Generator().manual_seed(0))
    validate_genotype(good, settings)
    with pytest.raises(ConfigError, match="base_width"):
        validate_genotype(good, settings.model_copy(update={"base_width": 16}))
    for damage in (
        lambda tree: tree.update(format=2),
        lambda tree: tree.update(depth=9),
        lambda tree: tree["cells"].pop("enc0"),
        lambda tree: tree["cells"]["enc0"].pop("nodes"),
        lambda tree: tree["cells"]["enc0"]["nodes"][0]["inputs"].update(s0="conv777"),
        lambda tree: tree["cells"]["enc0"]["nodes"][0].update(inputs={}),
        lambda tree: tree["cells"]["enc0"].update(residual="maybe"),
        lambda tree: tree["settings"].update(levels="many"),
    ):
        tree = json.loads(json.dumps(good))
        damage(tree)
        with pytest.raises(CheckpointError):
            build_derived(tree)
