"""The joint space for few scans: every size is a part of one supernet."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metanas_med.errors import ConfigError
from metanas_med.space import build_derived, cost, derive, genotype, get_space, read_genotype, sampled_rows, write_genotype
from metanas_med.space.blocks.norm import norm_act
from metanas_med.space.fewshot import FewShotSettings
from metanas_med.space.narrow import head_columns, leading, narrowed, put_part, sandwich, take_part
from metanas_med.space.network import NUM_POSITION, SegmentationNet

STRIDES = ((2, 2, 1), (2, 2, 2), (1, 2, 2))
SETTINGS = FewShotSettings(base_width=8, max_width=24, levels=4, encoder_blocks=3, decoder_blocks=2)


def picks_of(settings: FewShotSettings, chosen: Mapping[str, str]) -> dict[str, int]:
    rows = get_space(settings).rows()
    return {name: row.options.index(chosen[name]) if name in chosen else 0 for name, row in rows.items()}


def supernet(settings: FewShotSettings = SETTINGS, seed: int = 0) -> SegmentationNet:
    torch.manual_seed(seed)
    net = SegmentationNet(get_space(settings).build(None), 2, 2).double()
    with torch.no_grad():
        for parameter in net.parameters():  # norms and rows start at constants
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


def batch(shape: Sequence[int] = (9, 8, 6)) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    draw = [torch.randn(2, channels, *shape, generator=g, dtype=torch.float64) for channels in (2, 3)]
    return draw[0], draw[1]


def masked(net: SegmentationNet, images: Tensor, coords: Tensor, chosen: Mapping[str, str]) -> Tensor:
    """Return the logits of the wide network with everything masked that ``chosen`` lacks: written out, without the space's code."""
    weights = dict(net.named_parameters())
    levels, width = int(chosen.get("levels", 4)), int(chosen.get("width", 8))
    own = [min(width * 2**level, 24, int(chosen.get("cap", 8)) * width) for level in range(levels)]
    whole = [8, 16, 24, 24]

    def mask(x: Tensor, level: int) -> Tensor:
        keep = torch.zeros(x.shape[1], dtype=x.dtype)
        keep[: own[level]] = 1
        return x * keep.view(1, -1, 1, 1, 1)

    def block(name: str, level: int, x: Tensor, stride: Sequence[int] = (1, 1, 1), extra: Tensor | None = None) -> Tensor:
        kernel = weights[f"body.convs.{name}.weight"]
        flat = level < int(chosen.get("flat", 0))
        kernel = kernel * torch.tensor([0.0, 1.0, 0.0]) if flat else kernel  # as a 3x3x3 kernel of zeros around its middle
        y = F.conv3d(x, kernel, None, tuple(stride), 1)
        y = y if extra is None else y + extra
        return mask(norm_act(y, weights[f"body.norms.{name}.weight"], weights[f"body.norms.{name}.bias"]), level)

    def rest(side: str, level: int, first: Tensor, count: int) -> Tensor:
        x = first
        for number in range(1, count):
            x = block(f"{side}{level}_{number}", level, x)
        return x + first if chosen.get("residual") == "residual" and count > 1 else x

    kernel = weights["stem.kernel"] * weights["task.channels"][:, :, None, None, None]
    x, encoded = mask(norm_act(F.conv3d(images, kernel, padding=1)), 0), []
    for level in range(levels):
        first = block(f"down{level}_0", level, x, STRIDES[level - 1] if level else (1, 1, 1))
        x = rest("down", level, first, int(chosen.get("encoder_blocks", 3)))
        encoded.append(x)
    bottom = whole[levels - 1]
    if chosen.get("context") == "pool":
        kernel = weights["body.convs.context_pool.weight"][:bottom, :bottom]
        x = x + mask(F.leaky_relu(F.conv3d(x.mean((2, 3, 4), keepdim=True), kernel), 0.01), levels - 1)
    if chosen.get("context") == "dilated":
        kernel = weights["body.convs.context_dilated.weight"][:bottom, :bottom]
        scale, shift = (weights[f"body.norms.context_dilated.{name}"][:bottom] for name in ("weight", "bias"))
        x = x + mask(norm_act(F.conv3d(x, kernel, None, 1, 2, 2), scale, shift), levels - 1)
    features = [x]
    for level in range(levels - 2, -1, -1):
        low = mask(F.conv3d(x, weights[f"body.convs.project{level}.weight"]), level)
        high = F.interpolate(low, size=encoded[level].shape[2:], mode="nearest")
        skip = torch.zeros_like(high)
        if chosen.get(f"up{level}/skip", "skip") == "skip":
            kernel = weights[f"body.convs.up{level}_skip.weight"]
            kernel = kernel * torch.tensor([0.0, 1.0, 0.0]) if level < int(chosen.get("flat", 0)) else kernel
            skip = F.conv3d(encoded[level], kernel, padding=1)
        x = rest("up", level, block(f"up{level}_0", level, high, extra=skip), int(chosen.get("decoder_blocks", 2)))
        features.insert(0, x)
    rows = torch.cat([weights["head.background"][None], weights["head.organ"].expand(2, -1)]) + weights["task.rows"]
    starts = np.cumsum([0, *whole])
    position = rows[:, -NUM_POSITION:]
    total = torch.einsum("kf,bfxyz->bkxyz", position[:, :-1], torch.cat([coords, coords.square()], 1))
    total = total + position[:, -1].view(1, -1, 1, 1, 1)
    for level, feature in enumerate(features):
        scores = torch.einsum("kf,bfxyz->bkxyz", rows[:, starts[level] : starts[level + 1]], feature)
        total = total + F.interpolate(scores, size=images.shape[2:], mode="trilinear", align_corners=False)
    return total


CHOICES: list[dict[str, str]] = [
    {},
    {"levels": "2", "width": "4", "encoder_blocks": "1", "decoder_blocks": "1"},
    {"levels": "3", "width": "4", "residual": "residual", "flat": "1"},
    {"width": "4", "cap": "4", "encoder_blocks": "2", "context": "pool", "up0/skip": "none"},
    {"levels": "3", "decoder_blocks": "1", "context": "dilated", "flat": "2", "up1/skip": "none"},
]


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_a_part_equals_the_wide_network_with_the_rest_masked(chosen: dict[str, str]) -> None:
    """Outputs, and the gradients of every parameter of the wide network."""
    net, (images, coords) = supernet(), batch()
    part = narrowed(net, picks_of(SETTINGS, chosen))
    found, expected = part(images, coords, STRIDES), masked(net, images, coords, chosen)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    aim = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parameters = [p for name, p in net.named_parameters() if ".alphas." not in name]
    one, other = (torch.autograd.grad((y * aim).sum(), parameters, allow_unused=True) for y in (found, expected))
    moved = 0
    for a, b, p in zip(one, other, parameters, strict=True):
        a, b = (torch.zeros_like(p) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)
        moved += bool(a.abs().sum() > 0)
    assert moved > 10


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_a_derived_network_and_a_part_of_the_state_are_that_network(chosen: dict[str, str]) -> None:
    net, (images, coords) = supernet(), batch()
    picks = picks_of(SETTINGS, chosen)
    expected = narrowed(net, picks)(images, coords, STRIDES)
    found = write_genotype(net.body.space, picks)
    assert read_genotype(found)[1] == {row: picks[row] for row in found["picks"]}
    body = derive(net.body, found)
    torch.testing.assert_close(net.with_body(body)(images, coords, STRIDES), expected)
    alone = SegmentationNet(build_derived(found), 2, 2).double()
    values = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    shapes = {name: value.shape for name, value in alone.state_dict().items()}
    alone.load_state_dict(take_part(values, shapes, net.head.widths, body.widths))
    torch.testing.assert_close(alone(images, coords, STRIDES), expected)


def test_the_supernet_is_the_network_of_first_options_at_one_hot_alphas() -> None:
    net, (images, coords) = supernet(), batch()
    with torch.no_grad():
        for row in net.alphas().values():
            row.zero_()
            row[0] = 1e4
    torch.testing.assert_close(
        net(images, coords, STRIDES), narrowed(net, dict.fromkeys(net.body.space.rows(), 0))(images, coords, STRIDES)
    )
    assert genotype(net.body)["picks"]["levels"] == "4"


def test_only_relaxed_rows_have_alphas() -> None:
    space = get_space(SETTINGS)
    rows = space.rows()
    assert set(sampled_rows(space)) == {"levels", "encoder_blocks", "decoder_blocks", "width", "cap", "flat"}
    assert {f"body.alphas.{name}" for name in set(rows) - set(sampled_rows(space))} == set(supernet().alphas())
    net = supernet()
    assert set(net.weights()) | set(net.alphas()) | set(net.task_parameters()) == {name for name, _ in net.named_parameters()}


def test_parts_are_put_back_where_they_were_taken() -> None:
    net = supernet()
    values = {name: value.detach() for name, value in net.weights().items()}
    part = narrowed(net, picks_of(SETTINGS, {"levels": "2", "width": "4"}))
    shapes = {
        name: value.shape
        for name, value in SegmentationNet(part.body.space.build(picks_of(SETTINGS, {"levels": "2", "width": "4"})))
        .weights()
        .items()
    }
    taken = {name: value.clone() + 1 for name, value in take_part(values, shapes, net.head.widths, part.body.widths).items()}
    found = put_part(values, taken, net.head.widths, part.body.widths)
    for name, value in take_part(found, shapes, net.head.widths, part.body.widths).items():
        torch.testing.assert_close(value, taken[name])
    changed = sum(int((found[name] != values[name]).sum()) for name in values)
    assert changed == sum(value.numel() for value in taken.values())
    assert head_columns([8, 16], [4, 8]).tolist() == [0, 1, 2, 3, *range(8, 16), *range(24, 24 + NUM_POSITION)]


def test_a_part_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no part of shape \[4\]"):
        leading(torch.zeros(3), (4,))
    with pytest.raises(ConfigError, match="lacks a level"):
        take_part({}, {"body.convs.down7_0.weight": (1,)}, [8], [8])
    with pytest.raises(ConfigError, match="no part of widths"):
        head_columns([8], [8, 16])


def test_sandwich_has_the_largest_the_smallest_and_a_random_network() -> None:
    space = get_space(SETTINGS)
    rng, randoms = np.random.default_rng(0), []
    for _ in range(200):
        largest, smallest, drawn = sandwich(space, rng)
        randoms.append(drawn)
    costs = [cost(space.build(picks), (16, 16, 8), STRIDES)["multiply_adds"] for picks in (largest, smallest, *randoms[:20])]
    assert costs[0] >= max(costs) * 0.999 or largest == dict.fromkeys(space.rows(), 0)
    assert costs[1] == min(costs)
    for name, row in space.rows().items():
        shares = [np.mean([drawn[name] == option for drawn in randoms]) for option in range(len(row.options))]
        expected = 1 / len(row.options) if row.type == "sampled" else 0.75
        assert abs(shares[0] - expected) < 0.12, name


def test_sizes_cost_what_they_should() -> None:
    """Multiply-adds of one voxel by hand: a single level of width w, b blocks: 27 w^2 each."""
    space = get_space(FewShotSettings(base_width=8, max_width=8, levels=1, encoder_blocks=2, search_context=False))
    picks = {name: 0 for name in space.rows()}
    assert cost(space.build(picks), (6, 6, 6), ())["multiply_adds"] == 2 * 27 * 64 * 216
    one = {**picks, "encoder_blocks": 1}
    assert cost(space.build(one), (6, 6, 6), ())["multiply_adds"] == 27 * 64 * 216
    if "flat" in picks:
        flat = {**one, "flat": space.rows()["flat"].options.index("1")}
        assert cost(space.build(flat), (6, 6, 6), ())["multiply_adds"] == 9 * 64 * 216


@pytest.mark.parametrize("dims", [2, 3])
def test_it_runs_in_two_and_three_dimensions_and_at_odd_sizes(dims: Literal[2, 3]) -> None:
    settings = FewShotSettings(dims=dims, base_width=4, max_width=8, levels=3)
    net = SegmentationNet(get_space(settings).build(None))
    images, coords = (x.float() for x in batch((7, 9, 5)))
    net.start_task(2, 1)
    assert net(images, coords, STRIDES).shape == (2, 2, 7, 9, 5)
    assert ("flat" in get_space(settings).rows()) == (dims == 3)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="max_width 100 is over 8 times"):
        FewShotSettings(base_width=8, max_width=100)
    with pytest.raises(ValueError, match="levels = 9 is not on offer"):
        FewShotSettings(defaults=(("levels", "9"),))
    with pytest.raises(ValueError, match="no such row"):
        FewShotSettings(defaults=(("depth", "2"),))
