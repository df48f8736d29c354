"""DiNTS: one-hot equality, shapes, parts against formulas, costs, genotypes, sampled paths."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.space import (
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
    validate_genotype,
)
from metanas_med.space.blocks.operations import Source
from metanas_med.space.choice import Choice
from metanas_med.space.dints import Dints, DintsBody, DintsSettings
from metanas_med.space.dints.parts import Down, Up, convolution, make_operation
from metanas_med.space.genotype import write_genotype
from metanas_med.space.network import SegmentationNet

from .dints_networks import SHAPE, STRIDES, generator, published_picks, randomise, small
from .papers import check_cost, check_one_hot

# one network in two states


@pytest.mark.parametrize(("form", "dims", "seed"), [(f, d, s) for f in ("house", "native") for d in (2, 3) for s in range(3)])
def test_soft_equals_discrete_at_one_hot_alphas(form: str, dims: int, seed: int) -> None:
    settings = small(form, dims, num_channels=seed + 1)
    body = get_space(settings).build(None, generator(seed)).double()
    randomise(body, seed)
    chosen = random_genotype(settings, generator(seed))
    one_hot_alphas(body, chosen)
    assert genotype(body) == chosen == json.loads(json.dumps(chosen))
    derived = derive(body, chosen)
    assert genotype(derived) == chosen and not derived.alphas()
    assert derived.state_dict().keys() < body.state_dict().keys()
    assert all(value.shape == body.state_dict()[name].shape for name, value in derived.state_dict().items())
    x = torch.randn(2, body.in_width, *SHAPE, generator=generator(seed), dtype=torch.float64)
    soft, hard = body(x, STRIDES), derived(x, STRIDES)
    for one, other in zip(soft, hard, strict=False):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert not any(rest.any() for rest in soft[len(hard) :])  # levels that the network does not write
    again = build_derived(json.loads(json.dumps(chosen))).double()
    again.load_state_dict(derived.state_dict())
    assert torch.equal(again(x, STRIDES)[0], hard[0])


@pytest.mark.parametrize("form", ["house", "native"])
@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_at_odd_sizes_strides_and_channels(form: str, dims: int) -> None:
    for channels in (1, 4):
        settings = small(form, dims, num_channels=channels)
        body = get_space(settings).build(None, generator())
        for shape in ((9, 7, 5), (1, 1, 1)) if channels == 1 else ((8, 6, 4), (3, 5, 1)):
            for strides in (STRIDES, ((1, 2, 1), (2, 1, 1))):
                features = body(torch.randn(2, body.in_width, *shape, generator=generator()), strides)
                sizes = [shape]
                for step in strides[:2]:
                    step = (*step[:2], 1 if dims == 2 else step[2])
                    sizes.append(tuple(-(-n // s) for n, s in zip(sizes[-1], step, strict=True)))  # type: ignore[arg-type]
                expected = [(2, 2, *shape)] if form == "native" else [(2, w, *n) for w, n in zip((2, 4, 5), sizes, strict=True)]
                assert [tuple(f.shape) for f in features] == expected
                assert all(f.isfinite().all() for f in features)
        sum(f.square().sum() + f.sum() for f in features).backward()  # type: ignore[union-attr]
        assert all(p.grad is None or p.grad.isfinite().all() for p in body.parameters())


@pytest.mark.parametrize("form", ["house", "native"])
def test_every_parameter_has_a_gradient(form: str) -> None:
    body = get_space(small(form)).build(None, generator())
    body.init_alphas(generator(), 0.5)
    features = body(torch.randn(1, body.in_width, 16, 12, 8, generator=generator()), STRIDES)
    sum(f.square().sum() + f.sum() for f in features).backward()  # type: ignore[union-attr]
    assert not [name for name, p in body.named_parameters() if p.grad is None or not p.grad.any()]
    assert {f"alphas.{row}" for row in body.rows()} == set(body.alphas())


def test_the_weight_of_an_edge_is_its_probability_in_a_block_that_is_not_empty() -> None:
    body = get_space(small()).build(None, generator())
    assert isinstance(body, DintsBody)
    body.init_alphas(generator(), 1.0)
    p = [float(body.probabilities()[f"block1/edge{e}"][0].detach()) for e in range(7)]
    found = body.gates(body.choose(), 1).weights()
    assert [float(w.detach()) for w in found.values() if w is not None] == pytest.approx(
        [value / (1 - math.prod(1 - q for q in p)) for value in p], rel=1e-5
    )
    total = sum(  # the same by enumeration of all patterns
        math.prod(q if pattern >> e & 1 else 1 - q for e, q in enumerate(p)) for pattern in range(1, 128) if pattern >> 3 & 1
    ) / sum(math.prod(q if pattern >> e & 1 else 1 - q for e, q in enumerate(p)) for pattern in range(1, 128))
    assert float(found[3].detach()) == pytest.approx(total, rel=1e-5)  # type: ignore[union-attr]


def test_the_genotype_of_a_supernet_is_legal_where_the_most_probable_gates_are_not() -> None:
    settings = small()
    body = get_space(settings).build(None, generator())
    with torch.no_grad():
        for name, row in body.alphas().items():
            if not name.endswith("/op"):
                row.copy_(torch.tensor([-1.0, 1.0]))  # every edge is off
    space = get_space(settings)
    picks = read_genotype(genotype(body))[1]
    assert isinstance(space, Dints) and not space.reason_against(picks)
    assert [bin(p).count("1") for p in space.patterns(picks)] == [1, 1, 1]


# parts against formulas


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("native", [False, True])
def test_operations_against_formulas(dims: int, native: bool) -> None:
    import torch.nn.functional as F

    x = torch.randn(2, 3, 6, 5, 4, generator=generator(), dtype=torch.float64)

    def around(convolved: Any) -> Tensor:
        """Return activation and norm around convolutions, in the order of the form."""
        out = F.instance_norm(convolved(F.relu(x) if native else x), eps=1e-5)
        return out if native else F.leaky_relu(out, 0.01)

    names = {3: ("conv333", "p3d331", "p3d313", "p3d133"), 2: ("conv331",)}[dims]
    assert torch.equal(make_operation("skip", 3, dims, native, None).double()(Source(x)), x)
    for name in names:
        op: Any = make_operation(name, 3, dims, native, generator()).double()
        if name.startswith("conv"):
            expected = around(lambda y, k=op.kernel: F.conv3d(y, k, padding=(1, 1, int(dims == 3))))
        else:
            plane, axis = ([int(size == 3) for size in kernel.shape[2:]] for kernel in (op.plane, op.axis))
            assert [a + b for a, b in zip(plane, axis, strict=True)] == [1, 1, 1]
            assert name == "p3d" + "".join(str(1 + 2 * n) for n in plane)
            expected = around(lambda y, o=op, p=plane, a=axis: F.conv3d(F.conv3d(y, o.plane, padding=p), o.axis, padding=a))
        torch.testing.assert_close(op(Source(x)), expected, rtol=1e-9, atol=1e-9)
        scale = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
        torch.testing.assert_close(op(Source(x), scale), expected * scale.view(1, 3, 1, 1, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("stride", [(2, 2, 1), (2, 2, 2), (1, 1, 1)])
def test_resampling_against_formulas(native: bool, stride: tuple[int, int, int]) -> None:
    import torch.nn.functional as F

    x = torch.randn(2, 3, 5, 4, 3, generator=generator(), dtype=torch.float64)
    size = [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]

    def end(y: Tensor) -> Tensor:
        y = F.instance_norm(y, eps=1e-5)
        return y if native else F.leaky_relu(y, 0.01)

    down: Any = Down(3, 5, native, generator()).double()
    y = F.relu(x) if native else x
    padded = F.pad(y, [n for s in reversed(stride) for n in (0, s)])  # more than it takes: the rest is cut off below
    moved = padded[:, :, *(slice(int(s > 1), None) for s in stride)]  # type: ignore[misc]
    parts = [F.conv3d(part, k, stride=stride) for part, k in ((padded, down.unit.kernel[:2]), (moved, down.unit.kernel[2:]))]
    parts = [part[:, :, : size[0], : size[1], : size[2]] for part in parts]
    torch.testing.assert_close(down(x, stride, size), end(torch.cat(parts, 1)), rtol=1e-9, atol=1e-9)
    up: Any = Up(3, 2, native, generator()).double()
    high = F.interpolate(x, size=(9, 8, 3), mode="trilinear", align_corners=native)
    expected = end(F.conv3d(F.relu(high) if native else high, up.unit.kernel))
    torch.testing.assert_close(up(x, stride, (9, 8, 3)), expected, rtol=1e-9, atol=1e-9)


def test_kernels_of_small_maps_get_their_gradient_in_bf16() -> None:
    """oneDNN leaves the gradient of such kernels unwritten."""
    x, kernel = torch.randn(1, 16, 2, 2, 2, generator=generator()), torch.randn(16, 16, 3, 3, 1, generator=generator()) / 10
    found = []
    for bf16 in (False, True):
        own = kernel.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = convolution(x, own)
        out.float().square().sum().backward()
        found.append(own.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.05)


# costs


@pytest.mark.parametrize(("form", "dims"), [("house", 3), ("house", 2), ("native", 3), ("native", 2)])
def test_costs(form: str, dims: int) -> None:
    settings = small(form, dims)
    for seed in range(3):
        chosen = random_genotype(settings, generator(seed))
        check_cost(settings, chosen)
        check_one_hot(settings, chosen)
    body = get_space(settings).build(None)
    body.init_alphas(generator(), 0.1)
    expected_multiply_adds(body, SHAPE, STRIDES).backward()
    assert all(row.grad is not None and row.grad.any() for row in body.alphas().values())


def test_expected_cost_is_the_mean_over_blocks_that_are_not_empty() -> None:
    """One block of two levels: every pattern is legal, so that the mean can be enumerated."""
    settings = small(levels=2, blocks=1, dims=2)
    space, body = Dints(settings), get_space(settings).build(None)
    body.init_alphas(generator(), 0.7)
    with torch.no_grad():
        for e in range(1, 4):  # one edge has two operations, the others a convolution
            getattr(body.alphas, f"block0/edge{e}/op").copy_(torch.tensor([-1e4, 0.0]))
    p = {name: row.detach() for name, row in body.probabilities().items()}
    mean, total = 0.0, 0.0
    for pattern in range(1, 16):
        share = math.prod(float(p[f"block0/edge{e}"][0 if pattern >> e & 1 else 1]) for e in range(4))
        total += share
        on = [e for e in range(4) if pattern >> e & 1]
        for first in (0, 1) if 0 in on else (1,):
            ops = {e: 1 if e else first for e in on}
            picks = {f"block0/edge{e}": int(e not in on) for e in range(4)} | {f"block0/edge{e}/op": o for e, o in ops.items()}
            q = share * math.prod(float(p[f"block0/edge{e}/op"][o]) for e, o in ops.items())
            mean += q * cost(space.build(picks), SHAPE, STRIDES)["multiply_adds"]
    assert expected_multiply_adds(body, SHAPE, STRIDES).item() == pytest.approx(mean / total, rel=1e-5)


# genotypes


def test_random_genotypes_are_legal() -> None:
    settings = small(levels=2, blocks=2, dims=2)
    space, rng = Dints(settings), generator()
    for _ in range(60):
        found = random_genotype(settings, rng)
        assert not space.reason_against(read_genotype(found)[1])
    large = Dints(DintsSettings(form="native"))
    assert not any(large.reason_against(large.draw(rng)) for _ in range(940))


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_legal_and_one_edit_away(seed: int) -> None:
    settings = small(blocks=2, levels=2, dims=2)
    space, found = Dints(settings), random_genotype(settings, generator(seed))
    own = read_genotype(found)[1]
    every = [p for p in ((a, b) for a in range(1, 16) for b in range(1, 16)) if not space.grid.reason_against(p)]
    patterns, near = space.patterns(own), list(neighbours(found))
    hashes = {hash_genotype(other) for other in near}
    assert len(hashes) == len(near) and hash_genotype(found) not in hashes
    flipped: set[tuple[int, int]] = set()
    for other in near:
        picks = read_genotype(other)[1]
        there = space.patterns(picks)
        assert not space.reason_against(picks)
        if there == patterns:
            assert sum(picks[name] != own[name] for name in own) == 1
            continue
        kept = [name for name in own if name.endswith("/op") and name in picks]
        assert all(picks[name] == own[name] for name in kept)
        changed = {(b, e) for b in range(2) for e in range(4) if (there[b] ^ patterns[b]) >> e & 1}
        flipped |= changed
        away = {(b, e): min(_distance(p, patterns) for p in every if (p[b] ^ patterns[b]) >> e & 1) for b, e in changed}
        assert len(changed) in away.values()  # of the legal topologies with one of these changes, none is nearer
    assert flipped == {(b, e) for b in range(2) for e in range(4)}


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(bin(p ^ q).count("1") for p, q in zip(a, b, strict=True))


def test_what_is_not_legal_is_refused_with_the_reason() -> None:
    settings = small()
    found = random_genotype(settings, generator())
    empty = {**found, "picks": {row: "off" if not row.endswith("/op") else o for row, o in found["picks"].items()}}
    with pytest.raises(CheckpointError, match="block0 has no edge that is on"):
        build_derived(empty)
    picks = Dints(settings)._with({}, (1, 1, 2))
    with pytest.raises(ConfigError, match=r"block2 reads levels \[1\], but block1 writes levels \[0\]"):
        Dints(settings).build(picks)
    with pytest.raises(ConfigError, match="blocks"):
        validate_genotype(found, small(blocks=2))
    with pytest.raises(CheckpointError, match="unknown row 'block9/edge0'"):
        build_derived({**found, "picks": {**found["picks"], "block9/edge0": "on"}})


def test_the_published_code_is_a_legal_genotype() -> None:
    settings = DintsSettings(form="native")
    found = write_genotype(get_space(settings), published_picks(settings))
    picks = read_genotype(json.loads(json.dumps(found)))[1]
    names = [row for row in picks if row.endswith("/op")]
    assert [sum(picks[name] in which for name in names) for which in ({0}, {1}, {2, 3, 4})] == [24, 33, 40]
    assert not get_space(small()).published()  # type: ignore[attr-defined]
    house = DintsSettings(blocks=12)
    assert derive(get_space(house).build(None), write_genotype(get_space(house), published_picks(house))).widths == house.widths


# relaxations that sample


@pytest.mark.parametrize("form", ["house", "native"])
def test_sampled_paths_run_alone(form: str) -> None:
    settings = small(form)
    body, space = get_space(settings).build(None, generator()), Dints(settings)
    picks = space.draw(generator(3))
    rows = {n: torch.zeros(len(r.options)).index_fill(0, torch.tensor(picks.get(n, 0)), 1.0) for n, r in body.rows().items()}
    choice = Choice(rows, active={name: (picks.get(name, 0),) for name in rows})
    ran: list[str] = []
    for name, module in body.named_modules():
        if ".ops." in name and name.count(".") == 4:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = torch.randn(1, body.in_width, *SHAPE, generator=generator())
    body.choose = lambda: choice  # type: ignore[method-assign]
    soft = body(x, STRIDES)
    assert len(ran) == sum(bin(p).count("1") for p in space.patterns(picks)) and len(set(ran)) == len(ran)
    hard = derive(body, write_genotype(space, picks))(x, STRIDES)
    torch.testing.assert_close(soft[: len(hard)], hard, rtol=1e-5, atol=1e-5)
    off = Choice(rows, active={name: (1,) if not name.endswith("/op") else (0,) for name in rows})  # no edge anywhere
    body.choose = lambda: off  # type: ignore[method-assign]
    assert not any(f.any() for f in body(x, STRIDES)) and len(body(x, STRIDES)) == len(soft)


def test_a_network_of_both_forms_takes_images() -> None:
    for form in ("house", "native"):
        settings = small(form)
        net = SegmentationNet(get_space(settings).build(None, generator()), 2, 1)
        logits = net(torch.randn(1, 2, *SHAPE), torch.zeros(1, 3, *SHAPE), STRIDES)
        assert logits.shape == (1, 2, *SHAPE)
