"""NAS-Unet: published counts, decoding by the paper's rule, and what holds for every space."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas_med.config.load import load_settings, override
from metanas_med.engine.settings import Settings
from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.space import (
    UNetSupernetSettings,
    build_derived,
    cost,
    derive,
    expected_multiply_adds,
    genotype,
    genotype_multiply_adds,
    get_space,
    neighbours,
    one_hot_alphas,
    random_genotype,
    read_genotype,
    write_genotype,
)
from metanas_med.space.base import draw_picks, reason_against
from metanas_med.space.blocks.operations import Source
from metanas_med.space.blocks.upward import UpSource
from metanas_med.space.calibrate import calibrate
from metanas_med.space.candidate_sets import candidate_set
from metanas_med.space.choice import Relaxed, pairs_of
from metanas_med.space.genotype import published
from metanas_med.space.nas_unet import NasUnetSettings, num_cells
from metanas_med.space.nas_unet.native import NATIVE, draw_weights
from metanas_med.space.nas_unet.picks import cell_options
from metanas_med.space.nas_unet.settings import inputs_of
from metanas_med.space.native import NativeNetwork
from metanas_med.space.network import SegmentationNet

STRIDES = ((2, 2, 1), (2, 2, 2), (2, 1, 2))
SHAPE = (9, 7, 5)


def small(form: str = "house", dims: int = 3, **more: Any) -> NasUnetSettings:
    given = {"form": form, "dims": dims, "base_width": 2, "max_width": 3, "levels": 3, "num_nodes": 2, **more}
    return NasUnetSettings.model_validate(given)


@pytest.mark.parametrize(("c", "depth", "parameters"), [(48, 4, 887_529), (48, 5, 1_086_405), (32, 5, 485_742)])
def test_the_published_network_has_the_authors_parameters(c: int, depth: int, parameters: int) -> None:
    settings = NasUnetSettings(form="native", dims=2, base_width=c, levels=depth + 2)
    with torch.device("meta"):
        net = NativeNetwork(build_derived(published(settings)["nasunet"]), 2)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_numbers_of_cells() -> None:
    assert [num_cells(cell_options(NasUnetSettings(form="native"), kind)) for kind in ("down", "up")] == [839_808, 362_880]
    darts = len(candidate_set("darts").names) - 1  # without none
    assert num_cells([[darts] * (2 + node) for node in range(4)]) == 1_037_664_180


def test_number_of_cells_is_that_of_legal_picks() -> None:
    settings = small(candidates=("identity", "none"), down_candidates=("conv_act", "dil_act"), up_candidates=("up_conv",))
    space = get_space(settings)
    rows = space.rows()
    found = set()
    for options in product(*(range(len(row.options)) for row in rows.values())):
        picks = dict(zip(rows, options, strict=True))
        if not reason_against(space, picks):
            found.add(json.dumps(write_genotype(space, picks)["picks"]))
    counts = [num_cells(cell_options(settings, kind)) for kind in ("down", "up")]
    assert len(found) == counts[0] * counts[1]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("form", ["house", "native"])
def test_what_holds_for_every_space(form: str, dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = small(form, dims, num_channels=2)
    body = get_space(settings).build(None, generator).double()
    x = torch.randn(2, body.in_width, *SHAPE, generator=generator, dtype=torch.float64)
    if form == "house":
        calibrate(body, [(x, STRIDES)])
        assert any((value - 1).abs().max() > 0.1 for name, value in body.named_buffers() if name.endswith("gain"))
    for _ in range(2):
        chosen = random_genotype(settings, generator)
        assert read_genotype(json.loads(json.dumps(chosen))) == read_genotype(chosen)
        one_hot_alphas(body, chosen)
        derived = derive(body, chosen)
        assert genotype(body) == genotype(derived) == chosen
        assert build_derived(chosen).state_dict().keys() == derived.state_dict().keys() < body.state_dict().keys()
        for one, other in zip(body(x, STRIDES), derived(x, STRIDES), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        found = cost(derived, SHAPE, STRIDES)
        assert found["multiply_adds"] == genotype_multiply_adds(chosen, SHAPE, STRIDES)
        assert found["parameters"] == sum(p.numel() for p in derived.parameters())
        expected = expected_multiply_adds(body, SHAPE, STRIDES)
        assert expected.item() == pytest.approx(found["multiply_adds"], rel=1e-6)
    body.init_alphas(generator)
    assert body.decoder() and not any("down" in name for name in body.decoder() or ())
    sum(out.sum() for out in body(x, STRIDES)).backward()  # type: ignore[union-attr]
    assert all(row.grad is not None for row in body.alphas().values())


def test_expected_cost_is_the_mean_over_the_rows() -> None:
    settings = small(levels=2, dims=2, candidates=("identity", "conv_act"))
    body, generator = get_space(settings).build(None), torch.Generator().manual_seed(0)
    drawn = [float(genotype_multiply_adds(random_genotype(settings, generator), (4, 4, 2), STRIDES)) for _ in range(16)]
    costs = torch.tensor(drawn)
    expected = expected_multiply_adds(body, (4, 4, 2), STRIDES)
    assert abs(expected.item() - costs.mean()) < 4 * costs.std() / len(drawn) ** 0.5
    expected.backward()
    assert body.alphas()["alphas.down/n1/s0"].grad is not None


def test_random_genotypes_and_their_neighbours_are_legal() -> None:
    settings = NasUnetSettings()
    space, generator = get_space(settings), torch.Generator().manual_seed(0)
    rows = space.rows()
    for _ in range(1000):
        picks = draw_picks(space, generator)
        assert not reason_against(space, picks)
        chosen = write_genotype(space, picks)
        assert "none" not in chosen["picks"].values() and len(chosen["picks"]) == 2 * (3 * 2 + 2)
    near = list(neighbours(chosen))
    picks = read_genotype(chosen)[1]
    # per row all other options but none, and all other pairs; a new edge takes its first operation
    pairs = sum(len(row.options) - 1 for row in rows.values() if row.type == "pair")
    ops = sum(len([o for o in rows[name].options if o != "none"]) - 1 for name in picks if rows[name].type == "one")
    assert len(near) == pairs + ops
    for found in near:
        other = read_genotype(found)[1]
        assert len([name for name in picks.keys() & other.keys() if picks[name] != other[name]]) == 1


def test_none_is_refused() -> None:
    settings = small()
    chosen = random_genotype(settings, torch.Generator().manual_seed(0))
    row = next(name for name in chosen["picks"] if name.startswith("up/n0/s0"))
    with pytest.raises(CheckpointError, match="none only takes weight"):
        read_genotype({**chosen, "picks": {**chosen["picks"], row: "none"}})


def test_decoding_is_the_papers_rule() -> None:
    """Against the rule in words: best operation an edge, lists of unequal length scaled, the two best edges a node."""
    settings = NasUnetSettings(edge_weights=True)
    space, generator = get_space(settings), torch.Generator().manual_seed(0)
    rows = space.rows()
    for trial in range(20):
        given = {name: torch.randn(len(row.options), generator=generator).softmax(0) for name, row in rows.items()}
        even = {name: torch.full_like(p, 1 / len(p)) if rows[name].type == "pair" else p for name, p in given.items()}
        picks = space.decode(even)  # type: ignore[attr-defined]
        for kind, shorter, others in (("down", 6, ("s0", "s1")), ("up", 4, ("s1",))):
            for node in range(3):
                strengths = {}
                for before in inputs_of(node):
                    row, p = rows[f"{kind}/n{node}/{before}"], even[f"{kind}/n{node}/{before}"]
                    named = {name: float(value) for name, value in zip(row.options, p, strict=True) if name != "none"}
                    assert row.options[picks[f"{kind}/n{node}/{before}"]] == max(named, key=named.__getitem__)
                    strengths[before] = max(named.values()) * (shorter / 7 if before in others else 1)
                if node:
                    best = sorted(sorted(strengths, key=lambda name: -strengths[name])[:2], key=inputs_of(node).index)  # noqa: B023
                    assert pairs_of(inputs_of(node))[picks[f"{kind}/n{node}/pair"]] == tuple(best)
        one_pair = {**even, "down/n2/pair": torch.eye(6)[trial % 6]}
        assert space.decode(one_pair)["down/n2/pair"] == trial % 6  # type: ignore[attr-defined]
        betas = {**even, "up/n2/edges": torch.tensor([0.0, 0.0, 0.5, 0.5])}
        assert rows["up/n2/pair"].options[space.decode(betas)["up/n2/pair"]] == "n0+n1"  # type: ignore[attr-defined]


def test_equal_edge_weights_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    plain, weighed = (get_space(small(edge_weights=on)).build(None).double() for on in (False, True))
    plain.init_alphas(generator)
    missing = weighed.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == [f"alphas.{kind}/n{node}/edges" for kind in ("down", "up") for node in range(2)]
    x = torch.randn(1, 4, *SHAPE, generator=generator, dtype=torch.float64)
    for one, other in zip(plain(x, STRIDES), weighed(x, STRIDES), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        weighed.alphas()["alphas.down/n0/edges"][0] += 1
    assert not torch.equal(plain(x, STRIDES)[1], weighed(x, STRIDES)[1])


@pytest.mark.parametrize("form", ["house", "native"])
def test_other_sizes_and_channels(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for dims, channels, shape in ((3, 1, (8, 8, 8)), (3, 3, (11, 6, 1)), (2, 4, (7, 10, 3)), (2, 2, (16, 4, 1))):
        settings = small(form, dims, num_channels=channels)
        net = SegmentationNet(build_derived(random_genotype(settings, generator)), channels, 2)
        images, coords = torch.randn(1, channels, *shape), torch.randn(1, 3, *shape)
        assert net(images, coords, STRIDES).shape == (1, 3, *shape)
        if form == "native":
            assert NativeNetwork(net.body, 4)(images).shape == (1, 4, *shape)


@pytest.mark.parametrize("name", ["darts", "merged", "after-elixirnet"])
def test_other_candidate_sets(name: str) -> None:
    settings = small(candidates=name)
    assert settings.candidates == settings.down_candidates == settings.up_candidates == candidate_set(name).candidates
    generator = torch.Generator().manual_seed(0)
    body = get_space(settings).build(None, generator).double()
    chosen = random_genotype(settings, generator)
    one_hot_alphas(body, chosen)
    x = torch.randn(1, body.widths[0], *SHAPE, generator=generator, dtype=torch.float64)
    for one, other in zip(body(x, STRIDES), derive(body, chosen)(x, STRIDES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert small(candidates="nas-unet") == small()
    with pytest.raises(ConfigError, match="form native has the authors' operations"):
        get_space(small("native", candidates=name))


def test_choosing_the_space_takes_its_own_operations() -> None:
    for arguments in (["--space.name", "nas_unet"], ["--space.name", "nas_unet", "--space.form", "native"]):
        space = load_settings(None, [*arguments, "--space.levels", "3"], Settings).space
        assert isinstance(space, NasUnetSettings) and space.levels == 3
        assert space.candidates == NasUnetSettings().candidates
    darts = load_settings(None, ["--space.name", "nas_unet", "--space.candidates", "darts"], Settings).space
    assert isinstance(darts, NasUnetSettings) and darts.down_candidates == candidate_set("darts").candidates
    back = override(load_settings(None, ["--space.name", "nas_unet"], Settings), ["--space.name", "unet_supernet"])
    assert back.space == UNetSupernetSettings()


def naive_norm(x: Tensor, c: int) -> Tensor:
    groups = 1 if c % 16 else c // 16
    parts = x.unflatten(1, (groups, c // groups))
    mean = parts.mean((2, 3, 4, 5), keepdim=True)
    return ((parts - mean) / (parts.var((2, 3, 4, 5), unbiased=False, keepdim=True) + 1e-5).sqrt()).flatten(1, 2)


@pytest.mark.parametrize("c", [6, 32])
@pytest.mark.parametrize("dims", [2, 3])
def test_native_operations_are_torch_modules_in_a_row(dims: int, c: int) -> None:
    """Against torch's own layers in place of functions, with norms from their definition."""
    extent, step = (3, 3, 3 if dims == 3 else 1), (2, 2, 2 if dims == 3 else 1)
    x = torch.randn(2, c, 5, 4, 3 if dims == 3 else 1, dtype=torch.float64)
    fine = tuple(n * k for n, k in zip(x.shape[2:], step, strict=True))

    def around(rate: int) -> tuple[int, ...]:
        return tuple(rate * (n // 2) for n in extent)

    def layer(up: bool, op: Any, rate: int = 1, groups: int = 1) -> torch.nn.Module:
        kind = torch.nn.ConvTranspose3d if up else torch.nn.Conv3d
        dilation = tuple(1 if n == 1 else rate for n in extent)
        made = kind(c, c, extent, step, around(rate), dilation=dilation, groups=groups, bias=False)  # type: ignore[arg-type]
        made.weight = op.weight
        return made

    for name in ("conv_act", "dil_act", "dep_act", "cweight_conv", "up_conv", "up_dil_conv", "up_dep_conv", "up_cweight"):
        op = NATIVE[name](c, dims).double()
        draw_weights(op, torch.Generator().manual_seed(0))
        up, inside, y = name.startswith("up"), op, x
        if "cweight" in name:
            inside = op.conv  # type: ignore[assignment]
            means = x.mean((2, 3, 4))
            hidden = (means @ op.squeeze.flatten(1).T + op.squeeze_bias).relu()  # type: ignore[operator, union-attr]
            y = x * (hidden @ op.excite.flatten(1).T + op.excite_bias).sigmoid()[..., None, None, None]  # type: ignore[operator, union-attr]
        y = layer(up, inside, 2 if "dil" in name else 1, c if "dep" in name else 1)(y)
        if "dep" in name:
            y = torch.einsum("oi,bixyz->boxyz", op.point.flatten(1), y)  # type: ignore[union-attr]
        y = naive_norm(y, c) if "cweight" in name else naive_norm(y, c).relu()
        expected = torch.nn.Upsample(fine, mode="nearest")(y) if up else y
        torch.testing.assert_close(op(UpSource(x, step, fine) if up else Source(x, step)), expected, rtol=1e-9, atol=1e-9)


def test_relaxations_that_sample_run_one_operation_an_edge() -> None:
    from metanas_med.learner.relaxations import RELAXATIONS

    generator = torch.Generator().manual_seed(0)
    body = get_space(small(levels=2)).build(None, generator)
    ran: list[str] = []
    for name, op in body.named_modules():
        if name.count(".") == 4 and "cells.down1.n1." in name:
            op.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = torch.randn(1, 4, *SHAPE, generator=generator)
    for name in ("gdas", "uniform"):
        entry = RELAXATIONS.entry(name)
        assert entry.settings is not None
        body.relax(Relaxed(entry.factory(entry.settings()), generator=generator))
        ran.clear()
        body(x, STRIDES)
        assert len(ran) == 2 == len({path.rpartition(".")[0] for path in ran}), ran


def test_partial_channels_run() -> None:
    from metanas_med.learner.relaxations import RELAXATIONS
    from metanas_med.learner.relaxations.partial import PartialSettings

    body = get_space(small(base_width=4, max_width=8)).build(None, torch.Generator().manual_seed(0))
    x = torch.randn(1, 8, *SHAPE)
    before = [out.shape for out in body(x, STRIDES)]
    body.relax(Relaxed(RELAXATIONS.entry("partial").factory(PartialSettings(k=2))))
    assert [out.shape for out in body(x, STRIDES)] == before
    assert all(out.isfinite().all() for out in body(x[..., :1], ((2, 2, 2), (2, 2, 2))))  # an axis thinner than the stride
