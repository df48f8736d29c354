"""C2FNAS: topologies counted and drawn, cells against direct formulas, the found network's size."""

from __future__ import annotations

from collections import Counter
from math import comb
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.space import build_derived, derive, get_space, random_genotype, read_genotype, write_genotype
from metanas_med.space.c2fnas import C2FNASSettings
from metanas_med.space.c2fnas.topology import FOUND, Place, draw_topology, every_place, places_of, reason_against
from metanas_med.space.counting import count_multiply_adds
from metanas_med.space.genotype import published
from metanas_med.space.narrow import narrowed, sandwich
from metanas_med.space.native import NativeNetwork
from metanas_med.space.network import SegmentationNet

from .papers import SHAPE, STRIDES, body_of, check_cost, check_draws, check_neighbours, check_one_hot, check_shapes, generator

SMALL = C2FNASSettings(base_width=4, max_width=8, levels=3, cells=7)
FULL = C2FNASSettings(form="native", levels=4, base_width=64, max_width=512)
Form = Literal["house", "native"]


def test_the_found_network_has_about_the_published_size() -> None:
    """17.0 M parameters and 151 GFLOP at 96^3 are remembered of the paper, not read; a third party's graph has 15.31 M, 157.6 GMAC."""
    with torch.device("meta"):
        net = NativeNetwork(build_derived(published(FULL)["c2fnas"]), 3)
    parameters, total = sum(p.numel() for p in net.parameters()), count_multiply_adds(net, 1, (96, 96, 96))
    assert abs(parameters / 17.0e6 - 1) < 0.12 and abs(total / 151e9 - 1) < 0.12
    assert round(parameters / 1e6, 2) == 15.31 and round(total / 1e9, 1) == 157.6


def test_operations_of_twelve_cells() -> None:
    ops = [row for row in get_space(FULL).rows().values() if row.type == "one"]
    assert np.prod([len(row.options) for row in ops]) == 531_441


@pytest.mark.parametrize(("cells", "levels"), [(12, 4), (9, 3), (7, 4), (3, 1), (5, 2)])
def test_topologies_are_compositions(cells: int, levels: int) -> None:
    """Cells in a row are cut into 2 L - 1 parts; every legal choice of the rows is found, and the draw gives each."""
    space = get_space(C2FNASSettings(dims=2, levels=levels, cells=cells))
    rows = space.rows()
    options = [
        [int(level) for level in rows[f"cell{cell}/level"].options] if f"cell{cell}/level" in rows else [own]
        for cell, own in enumerate(space.settings.own_topology)
    ]
    found = [()]
    for more in options:  # a step of more than one level is never legal
        found = [(*way, level) for way in found for level in more if not way or abs(way[-1] - level) < 2]  # type: ignore[misc]
    legal = {way for way in found if not reason_against(way, levels)}
    assert len(legal) == comb(cells - 1, 2 * levels - 2)
    draws = generator()
    counts = Counter(draw_topology(cells, levels, draws) for _ in range(600))
    assert counts.keys() <= legal and len(counts) >= min(len(legal), 200)
    for cell, levels_of in enumerate(options):  # no option is there for nothing
        assert {way[cell] for way in legal} == set(levels_of)


@pytest.mark.parametrize(
    ("topology", "reason"),
    [
        ((0, 1, 2, 1, 0, 0, 0), ""),
        ((1, 1, 2, 1, 0, 0, 0), "first and the last cell"),
        ((0, 2, 2, 1, 0, 0, 0), "changes by one"),
        ((0, 1, 1, 1, 0, 0, 0), "coarsest of 3 levels"),
        ((0, 1, 0, 1, 2, 1, 0), "down once"),
        ((0, 1, 2, 1, 2, 1, 0), "down once"),
    ],
)
def test_what_is_no_topology_is_refused(topology: tuple[int, ...], reason: str) -> None:
    assert reason in reason_against(topology, 3) and bool(reason) == bool(reason_against(topology, 3))
    found = random_genotype(SMALL, generator())
    picks = {**found["picks"], **{f"cell{cell}/level": str(level) for cell, level in enumerate(topology) if 0 < cell < 6}}
    if reason and topology[0] == 0 and (2 > topology[1]):
        with pytest.raises(CheckpointError, match=reason):
            read_genotype({**found, "picks": picks})
    if reason:
        with pytest.raises(ValueError, match=reason):
            C2FNASSettings(levels=3, cells=7, topology=topology)


@pytest.mark.parametrize("form", ["house", "native"])
@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_and_costs(dims: Literal[2, 3], form: Form) -> None:
    settings = SMALL.model_copy(update={"dims": dims, "form": form, "num_channels": 1 if dims == 2 else 4})
    check_shapes(settings)
    found = random_genotype(settings, generator(3))
    check_one_hot(settings, found)
    check_cost(settings, found)


def test_draws_and_neighbours_are_legal() -> None:
    check_draws(FULL.model_copy(update={"form": "house"}), 600)
    found = published(FULL)["c2fnas"]
    settings, own = read_genotype(found)
    near = list(get_space(settings).edits(own))  # type: ignore[attr-defined]
    assert all(sum(own[row] != other[row] for row in own) == 1 for other in near)
    # 24 other operations; the cells at the ends of levels with two cells and more move to the level next to them
    assert check_neighbours(found, hashed=3) == len(near) == 24 + 6


def test_places_name_weights_in_every_topology() -> None:
    names = [place.name for place in places_of(FOUND)]
    assert names == "down0_0 down0_1 down1_0 down1_1 down2_0 down3_0 up2_0 up2_1 up1_0 up0_0 up0_1 up0_2".split()
    assert [place.name for place in places_of(FOUND) if place.reads_back] == ["down0_1", "up0_2"]
    draws, every = generator(), set(every_place(12, 4))
    assert all(set(places_of(draw_topology(12, 4, draws))) <= every for _ in range(100))


@pytest.mark.parametrize("form", ["house", "native"])
def test_every_topology_is_a_part_of_the_supernet(form: Form) -> None:
    settings = SMALL.model_copy(update={"form": form})
    torch.manual_seed(0)
    net = SegmentationNet(get_space(settings).build(None), 2, 2).double()
    coords = torch.randn(2, 3, *SHAPE, generator=generator(2), dtype=torch.float64)
    images = torch.randn(2, 2, *SHAPE, generator=generator(1), dtype=torch.float64)
    picks = [{}, *(read_genotype(random_genotype(settings, generator(seed)))[1] for seed in range(3))]
    for own in picks:
        expected = narrowed(net, own)(images, coords, STRIDES)
        body = derive(net.body, write_genotype(net.body.space, own))
        torch.testing.assert_close(net.with_body(body)(images, coords, STRIDES), expected)
    for own in sandwich(net.body.space, np.random.default_rng(0)):
        assert not net.body.space.reason_against(own)  # type: ignore[attr-defined]


def test_a_chosen_topology_leaves_a_supernet_of_its_cells() -> None:
    space = get_space(SMALL)
    found = random_genotype(SMALL, generator(4))["picks"]
    part = space.part({row: option for row, option in found.items() if row.endswith("level")})  # type: ignore[attr-defined]
    body, whole = get_space(part).build(None), space.build(None)
    assert len(cast(nn.ModuleDict, body.cells)) == 7 and [row.type for row in get_space(part).rows().values()] == ["one"] * 7
    assert {name: value.shape for name, value in body.state_dict().items()}.items() <= {
        name: value.shape for name, value in whole.state_dict().items()
    }.items()
    with pytest.raises(ConfigError, match="changes by one"):
        space.part({"cell2/level": "0", "cell3/level": "2"})  # type: ignore[attr-defined]


@pytest.mark.parametrize("op", ["conv331", "conv333", "p3d"])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("place", [Place("down", 1, 0), Place("down", 0, 1), Place("up", 0, 0)], ids=lambda p: p.name)
def test_a_cell_equals_its_formula(place: Place, native: bool, op: str) -> None:
    from metanas_med.space.c2fnas.body import Cell

    torch.manual_seed(0)
    cell = Cell(place, (4, 6), (op,), 3, native, None).double()
    with torch.no_grad():
        for value in cell.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    w, width = dict(cell.named_parameters()), (4, 6)[place.level]
    x = torch.randn(2, width, 7, 6, 5, dtype=torch.float64)
    total, other = F.conv3d(x, w["first.weight"]), None
    if place.joins:
        other = torch.randn(2, 6, 4, 3, 5, dtype=torch.float64)
        if native:
            high = F.interpolate(other, size=(7, 6, 5), mode="trilinear", align_corners=False)
            total = total + F.instance_norm(F.conv3d(F.relu(high), w["up.weight"]))
        else:
            total = total + F.interpolate(F.conv3d(other, w["up.weight"]), size=(7, 6, 5), mode="nearest")
    elif place.reads_back:
        other = torch.randn(2, width, 7, 6, 5, dtype=torch.float64)
        total = total + F.conv3d(other, w["back.weight"])
    inside = F.relu(total) if native else F.leaky_relu(total, 0.01)
    if op == "p3d":
        inside = F.conv3d(F.conv3d(inside, w["op.p3d.plane"], padding=(1, 1, 0)), w["op.p3d.axis"], padding=(0, 0, 1))
    else:
        inside = F.conv3d(inside, w[f"op.{op}.weight"], padding=(1, 1, 0 if op == "conv331" else 1))
    inside = F.instance_norm(inside, weight=w["norm.weight"], bias=w["norm.bias"])
    inside = inside if native else F.leaky_relu(inside, 0.01)
    choice = get_space(SMALL).build(dict.fromkeys(get_space(SMALL).rows(), 0)).choose()
    torch.testing.assert_close(cell(x, other, choice, "none"), F.conv3d(inside, w["out.weight"]))


def test_the_graph_of_the_found_network() -> None:
    """The native network, cell by cell, with the weights of its body: which cell reads what, and where sizes change."""
    settings = C2FNASSettings(form="native", levels=4, base_width=4, max_width=32, num_channels=2)
    net = NativeNetwork(body_of(settings, published(settings)["c2fnas"]), 3).double()
    body: Any = net.body
    x = torch.randn(1, 2, 32, 32, 32, generator=generator(), dtype=torch.float64)
    choice = body.choose()

    def cell(name: str, first: Tensor, other: Tensor | None = None) -> Tensor:
        return body.cells[name](first, other, choice, "none")

    def down(level: int, x: Tensor) -> Tensor:
        step = body.steps[f"down{level}"]
        x = F.conv3d(F.relu(x), step["conv"].weight, None, 2, 1)
        return F.instance_norm(x, weight=step["norm"].weight, bias=step["norm"].bias)

    def conv(name: str, x: Tensor, stride: int = 1, norm: bool = True) -> Tensor:
        x = F.conv3d(x, body.ends[name].weight, None, stride, 1)
        own = body.ends[f"{name}_norm"] if norm else None
        return x if own is None else F.instance_norm(x, weight=own.weight, bias=own.bias)

    stem = conv("stride", F.relu(conv("stem", x)), 2)
    a = cell("down0_0", stem)
    b = cell("down0_1", a, stem)
    c = cell("down1_1", cell("down1_0", down(1, b)))
    d = cell("down2_0", down(2, c))
    e = cell("down3_0", down(3, d))
    f = cell("up2_1", cell("up2_0", d, e))
    g = cell("up1_0", c, f)
    h = cell("up0_0", b, g)
    i = cell("up0_1", h)
    j = cell("up0_2", i, h)
    kernel, both = torch.cat([body.ends["before"].weight, body.ends["last"].weight], 1), torch.cat([i, j], 1)
    own = body.ends["last_norm"]
    y = F.relu(F.instance_norm(F.conv3d(F.relu(both), kernel, padding=1), weight=own.weight, bias=own.bias))
    y = F.relu(conv("full", F.interpolate(y, scale_factor=2.0, mode="trilinear", align_corners=False)))
    torch.testing.assert_close(net(x), F.conv3d(y, net.classifier.conv.weight))  # type: ignore[arg-type, union-attr]


def test_a_supernet_of_one_topology_has_an_own_row_a_cell() -> None:
    settings = SMALL.model_copy(update={"search_topology": False})
    body = body_of(settings)
    x = torch.randn(2, 4, *SHAPE, generator=generator(), dtype=torch.float64)
    sum(f.square().sum() for f in body(x, STRIDES)).backward()  # type: ignore[union-attr]
    assert len(body.alphas()) == 7
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in body.alphas().values())
    assert all(value.grad is not None for value in body.weights().values())


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="7 cells and more, found 6"):
        C2FNASSettings(cells=6, levels=4)
    with pytest.raises(ValueError, match="each of 7 cells, found 3"):
        C2FNASSettings(cells=7, levels=3, topology=(0, 1, 0))
    assert [p.name for p in places_of((0, 0, 0))] == ["down0_0", "down0_1", "down0_2"]
