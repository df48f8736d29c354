"""DiNTS: equality with MONAI's module: outputs, parameters, entropies and memory."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metanas_med.space import (
    get_space,
)
from metanas_med.space.counting import count_multiply_adds
from metanas_med.space.dints import Dints, DintsBody, DintsSettings
from metanas_med.space.dints.topology import topology_of
from metanas_med.space.native import NativeNetwork

from .dints_networks import generator, published_picks, randomise, small


def monai_network(settings: DintsSettings, picks: dict[str, int], num_classes: int) -> Any:
    from monai.networks.nets.dints import DiNTS, TopologyInstance

    edges = len(topology_of(settings.levels).edges)
    on, operations = (np.zeros((settings.num_blocks, edges), dtype=int) for _ in range(2))
    for b in range(settings.num_blocks):
        for e in range(edges):
            on[b, e] = picks[f"block{b}/edge{e}"] == 0
            operations[b, e] = picks.get(f"block{b}/edge{e}/op", 0)
    grid, patterns = topology_of(settings.levels), Dints(settings).patterns(picks)
    active = [grid.reads(patterns[0]), *(grid.writes(p) for p in patterns)]
    nodes = torch.tensor([[a >> level & 1 for level in range(settings.levels)] for a in active])
    with contextlib.redirect_stdout(io.StringIO()):
        inside = TopologyInstance(
            [on, operations],
            settings.channel_mul,
            num_blocks=settings.num_blocks,
            num_depths=settings.levels,
            spatial_dims=settings.dims,
        )
    return DiNTS(inside, settings.num_channels, num_classes, spatial_dims=settings.dims, node_a=nodes)


def copy_weights(ours: NativeNetwork, theirs: Any) -> None:
    """Give MONAI's network our weights, module by module."""

    def put(where: Any, weight: Tensor, bias: Tensor | None = None) -> None:
        where.weight.copy_(weight.reshape(where.weight.shape))
        if bias is not None:
            where.bias.copy_(bias)

    body: Any = ours.body
    with torch.no_grad():
        for level in range(body.settings.levels):
            stem, tail = body.ends[f"stem{level}"], body.ends[f"tail{level}"]
            there = theirs.stem_down[str(level)].mod
            put(there[1], stem.first.kernel)
            put(there[2], stem.first.weight, stem.first.bias)
            put(there[4], stem.second.kernel)
            put(there[5], stem.second.weight, stem.second.bias)
            there = theirs.stem_up[str(level)].mod
            put(there[1], tail.kernel)
            put(there[2], tail.weight, tail.bias)
        last = body.ends["last"]
        put(theirs.stem_finals[0].conv, last.kernel)
        put(theirs.stem_finals[0].norm, last.weight, last.bias)
        put(theirs.stem_finals[1], ours.classifier.weight, ours.classifier.bias)  # type: ignore[arg-type]
        for name, cell in theirs.dints_space.cell_tree.items():
            b, e = eval(name)  # noqa: S307  # "(0, 3)"
            edge = body.blocks[f"block{b}"][f"edge{e}"]
            if hasattr(edge, "resample"):
                unit, before = edge.resample.unit, cell.preprocess
                if hasattr(before, "conv"):
                    put(before.conv, unit.kernel)
                else:
                    half = unit.cout // 2
                    put(before.conv_1, unit.kernel[:half])
                    put(before.conv_2, unit.kernel[half:])
                put(before.norm, unit.weight, unit.bias)
            (op,) = edge.ops.values()
            there = cell.op.ops[0]
            if hasattr(op, "plane"):
                put(there.conv, op.plane)
                put(there.conv_1, op.axis)
                put(there.norm, op.weight, op.bias)
            elif hasattr(op, "kernel"):
                put(there.conv, op.kernel)
                put(there.norm, op.weight, op.bias)


def test_the_published_network_has_its_published_size() -> None:
    settings = DintsSettings(form="native")
    picks = published_picks(settings)
    with torch.device("meta"):
        ours = NativeNetwork(get_space(settings).build(picks), 2)
        theirs = monai_network(settings, picks, 2)
    for net in (ours, theirs):
        assert sum(p.numel() for p in net.parameters()) == 152_360_994
    assert len(ours.body.blocks) == 12 and sum(len(block) for block in ours.body.blocks.values()) == 97  # type: ignore[arg-type]
    assert sum(p.numel() for name, p in ours.body.named_parameters() if name.startswith("blocks.")) == 142_916_096
    found = count_multiply_adds(ours, 1, (96, 96, 96))
    assert found == pytest.approx(334.4e9, rel=0.01)


@pytest.mark.parametrize(("dims", "levels", "blocks"), [(3, 4, 12), (3, 2, 3), (2, 3, 4)])
def test_equals_the_module_of_monai(dims: int, levels: int, blocks: int) -> None:
    mul = 0.0625 if levels == 4 else 0.125
    settings = DintsSettings(form="native", dims=dims, levels=levels, blocks=blocks, channel_mul=mul, num_channels=2)  # type: ignore[arg-type]
    space = Dints(settings)
    picks = published_picks(settings) if levels == 4 else dict(space.draw(generator(1)))
    ours = NativeNetwork(space.build(picks, generator()), 3)
    theirs = monai_network(settings, picks, 3)
    randomise(ours.body, gains=False)
    copy_weights(ours, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    size = (2 ** (levels + 1),) * 3
    x = torch.randn(1, 2, *size, generator=generator())
    x = x if dims == 3 else x[..., :2]
    with torch.no_grad():
        expected = theirs(x) if dims == 3 else torch.stack([theirs(x[..., z]) for z in range(2)], -1)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.05


def test_entropies_and_memory_are_those_of_monai() -> None:
    from monai.networks.nets.dints import TopologySearch

    from metanas_med.space.dints.cost import expected_memory
    from metanas_med.space.dints.losses import pattern_probabilities, topology_entropy

    settings = small("native", levels=3, blocks=2)
    body = get_space(settings).build(None, generator())
    assert isinstance(body, DintsBody)
    body.init_alphas(generator(), 1.0)
    image = (1, 1, 32, 32, 32)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = TopologySearch(settings.channel_mul, num_blocks=2, num_depths=3)
    p = {name: row.detach() for name, row in body.probabilities().items()}
    with torch.no_grad():
        for b in range(2):
            for e in range(7):
                theirs.log_alpha_a[b, e] = p[f"block{b}/edge{e}"][0].logit()
                theirs.log_alpha_c[b, e] = p[f"block{b}/edge{e}/op"].log()
    children: Any = theirs.get_prob_a(child=True)[0]
    fit: Any = theirs.get_topology_entropy(children)
    usage: list[Any] = [theirs.get_ram_cost_usage(image, full=whole) for whole in (False, True)]
    choice = body.choose()
    ours = [pattern_probabilities(body.grid, body.gates(choice, b)) for b in range(2)]
    order = [sum(int(bit) << e for e, bit in enumerate(child)) - 1 for child in theirs.child_list]
    torch.testing.assert_close(torch.stack(ours)[:, order], children.to(ours[0].dtype), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(topology_entropy(body.grid, ours), fit.to(ours[0].dtype), rtol=1e-4, atol=1e-4)
    sizes = body.sizes(image[2:], ())[0][1:]
    memory, full = expected_memory(body, choice, sizes)
    shares = [float(each.detach()) for each in usage]
    assert float(memory.detach()) / full == pytest.approx(shares[0] / shares[1], rel=1e-4)
    assert float(memory.detach()) == pytest.approx(
        shares[0] * 1024**2 / 4 / 2, rel=1e-4
    )  # MONAI counts halves of the image's sizes
