"""Cost against torch's flop counter, expectation against the discrete cost, gains against measured standard deviations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from metanas_med.errors import ConfigError
from metanas_med.space import (
    Body,
    UNetSupernetSettings,
    build_derived,
    calibrate,
    cost,
    derive,
    expected_multiply_adds,
    genotype_multiply_adds,
    get_space,
    one_hot_alphas,
    random_genotype,
    random_genotype_of_cost,
    read_space_settings,
)
from metanas_med.space.blocks.operations import Source, fold
from metanas_med.space.choice import Relaxed

SMALL: dict[str, Any] = {"base_width": 4, "max_width": 12, "coarse_from": 1, "search_depth": True}
STRIDES = ((2, 2, 1), (2, 2, 2), (2, 2, 2))
SHAPE = (11, 12, 6)


def flops(body: Body) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        body(torch.randn(1, body.widths[0], *SHAPE), STRIDES)
    counts = counter.get_flop_counts()["Global"]  # a merged kernel's own arithmetic, paid once a step, is not counted
    return sum(value for name, value in counts.items() if "convolution" in str(name))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_derived_cost_is_what_torch_counts(dims: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    settings = UNetSupernetSettings(dims=dims, nodes=(1, 2, 3) if seed % 2 else (2, 1), **SMALL)  # type: ignore[arg-type]
    chosen = random_genotype(settings, generator)
    derived = build_derived(chosen, generator)
    found = cost(derived, SHAPE, STRIDES)
    assert 2 * found["multiply_adds"] == flops(derived)
    assert found["multiply_adds"] == genotype_multiply_adds(chosen, SHAPE, STRIDES)
    assert found["parameters"] == sum(p.numel() for p in derived.parameters())
    body = get_space(settings).build(None, generator)
    one_hot_alphas(body, chosen)
    expected = expected_multiply_adds(body, SHAPE, STRIDES).item()
    assert expected == pytest.approx(found["multiply_adds"], rel=1e-6)


@pytest.mark.parametrize("edge", ["merged", "plain", "darts"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
def test_cost_of_whole_bodies(edge: str, dims: int, name: str) -> None:
    body = get_space(read_space_settings({"name": name, "dims": dims, "edge": edge, **SMALL})).build(None)
    assert 2 * cost(body, SHAPE, STRIDES)["multiply_adds"] == flops(body)


def test_expected_cost_is_the_mean_over_random_architectures() -> None:
    settings = UNetSupernetSettings(**SMALL)
    body = get_space(settings).build(None)
    generator = torch.Generator().manual_seed(0)
    costs = [float(genotype_multiply_adds(random_genotype(settings, generator), SHAPE, STRIDES)) for _ in range(120)]
    drawn = torch.tensor(costs)
    expected = expected_multiply_adds(body, SHAPE, STRIDES)
    assert abs(expected.item() - drawn.mean()) < 4 * drawn.std() / len(costs) ** 0.5
    expected.backward()
    rows = body.alphas()
    assert rows["alphas.depth"].grad is not None and rows["alphas.depth"].grad[-1] > 0  # deeper costs more
    silent = [name for name, row in rows.items() if row.grad is None or not row.grad.any()]
    assert set(silent) <= {"alphas.enc0/residual", "alphas.up0/residual"}  # they add an input: nothing runs for it


def test_random_genotype_of_a_cost() -> None:
    settings = UNetSupernetSettings(**SMALL)
    generator = torch.Generator().manual_seed(0)
    target = genotype_multiply_adds(random_genotype(settings, generator), SHAPE, STRIDES)
    found = random_genotype_of_cost(settings, target, 0.05, SHAPE, STRIDES, generator)
    assert abs(genotype_multiply_adds(found, SHAPE, STRIDES) / target - 1) <= 0.05
    with pytest.raises(ConfigError, match="nearest"):
        random_genotype_of_cost(settings, 1e15, 0.05, SHAPE, STRIDES, generator, tries=5)


@pytest.mark.parametrize("dims", [2, 3])
def test_gains_bring_candidates_to_one_scale(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = UNetSupernetSettings(dims=dims, **SMALL)  # type: ignore[arg-type]
    body = get_space(settings).build(None, generator)
    body.relax(Relaxed(prune=0.3))
    x = torch.nn.functional.avg_pool3d(torch.randn(2, 4, 16, 15, 10, generator=generator), 3, 1, 1)  # smooth
    state = {name: value.clone() for name, value in body.named_parameters()}
    calibrate(body, [(x[:1], STRIDES), (x[1:], STRIDES)])
    assert body.relaxed.prune == 0.3 and all(torch.equal(value, state[name]) for name, value in body.named_parameters())
    seen: dict[str, float] = {}
    for name, op in body.cells["enc0"]["n0"]["s0"].items():  # type: ignore[index]
        gain = op.gain.clone()
        assert not gain.requires_grad and not torch.equal(gain, torch.ones_like(gain))
        out = op(Source(fold(x) if dims == 2 else x), gain)
        seen[name] = out.transpose(0, 1).flatten(1).std(1, correction=0).mean().item()
    assert all(value == pytest.approx(1.0, abs=0.02) for value in seen.values()), seen
    chosen = random_genotype(settings, generator)
    derived = derive(body, chosen)
    own = body.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in derived.state_dict().items())


def test_gains_are_measured_at_the_strides_of_each_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    body = get_space(UNetSupernetSettings(**SMALL)).build(None, generator)  # type: ignore[arg-type]
    flat = tuple((2, 2, 1) for _ in STRIDES)
    x, y = torch.randn(2, 1, 4, 16, 15, 10, generator=generator)
    found = []
    for batches in ([(x, STRIDES), (y, flat)], [(y, flat), (x, STRIDES)], [(x, STRIDES), (y, STRIDES)]):
        fresh = copy.deepcopy(body)
        calibrate(fresh, batches)
        found.append(torch.cat([b for n, b in fresh.named_buffers() if n.endswith("gain")]))
    torch.testing.assert_close(found[0], found[1])  # whichever comes first
    assert not torch.allclose(found[0], found[2])


def test_random_architectures_reach_the_tail_of_the_costs() -> None:
    settings = UNetSupernetSettings(**SMALL)  # type: ignore[arg-type]
    costs = []
    for seed in range(60):
        costs.append(genotype_multiply_adds(random_genotype(settings, torch.Generator().manual_seed(seed)), SHAPE, STRIDES))
    target = 1.3 * max(costs)  # more than any of sixty draws
    found = random_genotype_of_cost(settings, target, 0.05, SHAPE, STRIDES, torch.Generator().manual_seed(1))
    assert abs(genotype_multiply_adds(found, SHAPE, STRIDES) / target - 1) <= 0.05
