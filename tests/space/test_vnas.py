"""V-NAS: blocks against direct formulas, and all that must hold in a paper's space."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanas_med.space import Body, expected_multiply_adds, get_space, random_genotype
from metanas_med.space.blocks.mixture import Mixture
from metanas_med.space.blocks.operations import Source
from metanas_med.space.native import NativeNetwork
from metanas_med.space.vnas import VNASSettings
from metanas_med.space.vnas.body import Bottleneck, Join, Operation, Pyramid

from .papers import (
    SHAPE,
    STRIDES,
    batch,
    body_of,
    check_cost,
    check_draws,
    check_neighbours,
    check_one_hot,
    check_shapes,
    generator,
)

SMALL = VNASSettings(base_width=4, max_width=8, levels=3, blocks=(2, 1), pools=(8, 2))
Form = Literal["house", "native"]


def values(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def normed(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return F.instance_norm(x, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"])


def randomised(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a module, none of them a constant."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in module.double().parameters():
            value.add_(torch.randn_like(value) * 0.3)
    return dict(module.named_parameters())


@pytest.mark.parametrize("form", ["house", "native"])
@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_and_costs(dims: Literal[2, 3], form: Form) -> None:
    settings = SMALL.model_copy(update={"dims": dims, "form": form, "num_channels": 1 if dims == 2 else 4})
    check_shapes(settings)
    found = random_genotype(settings, generator(3))
    check_one_hot(settings, found)
    check_cost(settings, found)
    assert bool(get_space(settings).rows()) == (dims == 3)  # in 2D one option is left


@pytest.mark.parametrize("form", ["house", "native"])
def test_the_expected_cost_is_the_mean_over_architectures(form: Form) -> None:
    settings = SMALL.model_copy(update={"form": form, "levels": 2, "blocks": (1,)})
    body = body_of(settings)
    body.init_alphas(generator(), 1.0)
    found, total = expected_multiply_adds(body, SHAPE, STRIDES), 0.0
    kinds = {"2d": 9, "3d": 27}
    for name, row in body.probabilities().items():
        width = 4 if form == "native" or name == "up0" else 2 if name.startswith("down0") else 4
        if form == "native" and name == "down1_0":
            width = 8
        at = [_taps(kind, name, form, kinds) * width**2 for kind in ("2d", "3d", "p3d")]
        total += float(row.detach().double() @ torch.tensor(at, dtype=torch.float64))
    uniform = body_of(settings)
    assert abs(float(found.detach()) - total - _fixed(uniform)) < 1e-3 * total


def _taps(kind: str, name: str, form: Form, kinds: dict[str, int]) -> float:
    """Return output voxels times taps of an operation; the plane convolution of p3d has the depth of its input."""
    before, after = {
        ("house", "down0_0"): (350, 350),
        ("house", "up0"): (350, 350),
        ("house", "down1_0"): (4 * 5 * 5, 4 * 5 * 5),
        ("native", "up_stem"): (60, 60),  # 4 x 5 x 3
        ("native", "down0_0"): (12, 12),  # 2 x 3 x 2
        ("native", "up0"): (12, 12),
        ("native", "down1_0"): (1 * 2 * 2, 1 * 2 * 1),
    }[form, name]
    return after * kinds[kind] if kind in kinds else before * 9 + after * 3


def _fixed(body: Body) -> float:
    """Return the multiply-adds of all that is not searched: those of an architecture, minus its operations, by hooks."""
    space, total = body.space, 0.0
    chosen = space.build(dict.fromkeys(space.rows(), 0)).eval()

    def count(module: nn.Module, inputs: tuple[Source, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        total += output[0, 0].numel() * weight.numel()  # type: ignore[operator, union-attr]

    for name, module in chosen.named_modules():
        if name.endswith(("reduce", "expand", "project", "below", "skip", "last")) or ".pool" in name:
            module.register_forward_hook(count)
    chosen(torch.randn(1, chosen.in_width, *SHAPE), STRIDES)
    if chosen.takes_images:
        total += 4 * 5 * 3 * chosen.stem.weight.numel()  # type: ignore[operator, union-attr]
    return total


def test_draws_and_neighbours_are_legal() -> None:
    check_draws(SMALL)
    rows = get_space(SMALL).rows()
    assert list(rows) == ["down0_0", "down0_1", "down1_0", "down2_0", "up1", "up0"]
    assert check_neighbours(random_genotype(SMALL, generator(1))) == 2 * len(rows)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1), (2, 2, 2), (1, 2, 2)])
def test_operations_equal_their_formulas(stride: tuple[int, int, int], activation: str) -> None:
    act = F.relu if activation == "relu" else nn.LeakyReLU(0.01)
    x, scale, (sx, sy, sz) = values((2, 3, 7, 6, 5)), values((3,), 1), stride
    for kind in ("2d", "3d", "p3d"):
        op = Operation(kind, 3, 3, activation, None)
        w = randomised(op)
        if kind == "p3d":
            inside = F.conv3d(x, w["convs.0.weight"], None, (sx, sy, 1), (1, 1, 0))
            inside = act(normed(inside, w, "norms.0"))
            expected = act(normed(F.conv3d(inside, w["convs.1.weight"], None, (1, 1, sz), (0, 0, 1)), w, "norms.1"))
        else:
            padding = (1, 1, 0 if kind == "2d" else 1)
            assert w["convs.0.weight"].shape == (3, 3, 3, 3, 1 if kind == "2d" else 3)
            expected = act(normed(F.conv3d(x, w["convs.0.weight"], None, stride, padding), w, "norms.0"))
        torch.testing.assert_close(op(Source(x, stride)), expected)
        torch.testing.assert_close(op(Source(x, stride), scale), expected * scale.view(1, 3, 1, 1, 1))


@pytest.mark.parametrize("project", [False, True])
def test_a_block_of_the_encoder_is_a_bottleneck(project: bool) -> None:
    stride = (2, 2, 1) if project else (1, 1, 1)
    cin, cout = (3, 6) if project else (6, 6)
    block = Bottleneck((cin, 2, cout), project, ("3d",), 3, "relu", None)
    w, x = randomised(block), values((2, cin, 7, 6, 5))
    inside = F.relu(normed(F.conv3d(x, w["reduce.weight"]), w, "reduce_norm"))
    inside = F.conv3d(inside, w["op.3d.convs.0.weight"], None, stride, 1)
    inside = F.conv3d(F.relu(normed(inside, w, "op.3d.norms.0")), w["expand.weight"])
    there = normed(F.conv3d(x, w["project.weight"], None, stride), w, "project_norm") if project else x
    body = body_of(SMALL, random_genotype(SMALL))
    expected = F.relu(normed(inside, w, "expand_norm") + there)
    torch.testing.assert_close(block(x, stride, body.choose(), "none"), expected)


@pytest.mark.parametrize("native", [False, True])
def test_a_block_of_the_decoder_sums_both_inputs(native: bool) -> None:
    join = Join(5, 4, 3, ("2d",), 3, native, None)
    w, below, skip = randomised(join), values((2, 5, 4, 3, 5)), values((2, 4, 7, 6, 5), 1)
    low = F.conv3d(below, w["below.weight"])
    mode = {"mode": "trilinear", "align_corners": False} if native else {"mode": "nearest"}
    total = F.conv3d(skip, w["skip.weight"]) + F.interpolate(low, size=(7, 6, 5), **mode)  # type: ignore[arg-type]
    total = normed(F.conv3d(total, w["op.2d.convs.0.weight"], None, 1, (1, 1, 0)), w, "op.2d.norms.0")
    expected = F.relu(total) if native else F.leaky_relu(total, 0.01)
    torch.testing.assert_close(join(below, skip, body_of(SMALL, random_genotype(SMALL)).choose(), "none"), expected)


def test_the_pyramid_pools_the_plane() -> None:
    pyramid = Pyramid(3, (8, 2), 3, False, None)
    w, x = randomised(pyramid), values((2, 3, 7, 6, 5))
    found = pyramid(x)
    assert found.shape == (2, 5, 7, 6, 5)
    torch.testing.assert_close(found[:, :3], x)
    whole = F.conv3d(x.amax((2, 3), keepdim=True), w["pool8.weight"])  # a pool is no larger than the map
    torch.testing.assert_close(found[:, 3:4], whole.expand(2, 1, 7, 6, 5))
    padded = F.pad(x, (0, 0, 0, 0, 0, 1), value=-torch.inf)
    halves = padded.unflatten(2, (4, 2)).unflatten(4, (3, 2)).amax((3, 5))
    expected = F.interpolate(F.conv3d(halves, w["pool2.weight"]), size=(7, 6, 5), mode="nearest")
    torch.testing.assert_close(found[:, 4:], expected)


def test_the_native_network_has_resnets_encoder() -> None:
    """Bottlenecks (3, 4, 6, 3) of 64 to 512 channels times 4, as in ResNet-50, counted from its formula; one row a block."""
    settings = VNASSettings(form="native", base_width=64, max_width=512, num_channels=1)
    space = get_space(settings)
    assert len(space.rows()) == 16 + 4
    with torch.device("meta"):
        net = NativeNetwork(space.build({row: 1 for row in space.rows()}), 2)
    found = sum(p.numel() for n, p in net.named_parameters() if ".blocks.down" in n)
    expected, before = 0, 64
    for count, inside in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for number in range(count):
            expected += before * inside + 27 * inside**2 + 4 * inside**2 + 4 * inside + 8 * inside
            expected += 4 * inside * before + 8 * inside if number == 0 else 0
            before = 4 * inside
    assert found == expected
    assert net(torch.empty(1, 1, 32, 32, 32, device="meta")).shape == (1, 2, 32, 32, 32)


def test_every_block_has_its_own_row() -> None:
    body = body_of(SMALL)
    rows = body.rows()
    assert len([m for m in body.modules() if isinstance(m, Mixture)]) == len(rows)
    x = batch(body)
    sum(f.square().sum() for f in body(x, STRIDES)).backward()  # type: ignore[union-attr]
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in body.alphas().values())
    assert all(value.grad is not None for value in body.weights().values())
