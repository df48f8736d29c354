"""Stem, head and the three groups of parameters of a whole segmentation network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metanas_med.learner import Runtime
from metanas_med.learner.runtime import cpu_bfloat16
from metanas_med.space import derive
from metanas_med.space import genotype as genotype_of
from metanas_med.space.network import upsample

from .toy import SHAPE, STRIDES, make_net

SCHEDULES = [STRIDES, ((2, 2, 2), (2, 2, 2)), ((1, 2, 1), (2, 1, 1))]


def inputs(batch: int = 3, channels: int = 1, shape: tuple[int, ...] = SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, *shape, generator=g), torch.rand(batch, 3, *shape, generator=g) * 2 - 1


@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_groups_are_disjoint_and_complete(name: str, dims: int) -> None:
    net = make_net(name, dims=dims)
    groups = [net.weights(), net.alphas(), net.task_parameters()]
    names = [n for g in groups for n in g]
    assert len(names) == len(set(names)) and set(names) == set(dict(net.named_parameters()))
    assert {n.split(".")[0] for n in net.weights()} == {"stem", "body", "head"}
    assert set(net.task_parameters()) == {"task.channels", "task.rows"} and bool(net.alphas()) == (name != "unet")


@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("shape", [SHAPE, (3, 2, 1)])
def test_a_prediction_does_not_depend_on_its_batch(name: str, dims: int, shape: tuple[int, ...]) -> None:
    net = make_net(name, torch.float64, spread=0.3, dims=dims)
    images, coords = (t.double() for t in inputs(shape=shape))
    other = images.clone()
    other[0] *= 50.0
    for strides in SCHEDULES:
        together, alone = net(images, coords, strides), net(images[1:2], coords[1:2], strides)
        torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(net(other, coords, strides)[1:2], alone, rtol=1e-9, atol=1e-9)
    net.eval()
    torch.testing.assert_close(net(images, coords, SCHEDULES[-1])[1:2], alone, rtol=1e-9, atol=1e-9)  # one behaviour


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_the_runtime_decides_the_memory_format_of_all_features(channels: int, bfloat16: bool, last: bool) -> None:
    if bfloat16 and last and not cpu_bfloat16():
        pytest.skip("torch's bf16 convolutions keep channels-last maps only where the processor has bf16 instructions")
    runtime = Runtime(bfloat16=bfloat16, channels_last=last)
    net = make_net(spread=0.3)
    net.start_task(channels, 1)
    images, _ = inputs(channels=channels)
    placed = runtime.place(images)
    assert torch.equal(placed, images)
    with runtime.autocast():
        found = net.features(placed, SCHEDULES[1])
    formats = [f.is_contiguous(memory_format=torch.channels_last_3d) for f in found if f.shape[2:].numel() > 1]
    assert formats and set(formats) == {last}


def test_the_stem_is_a_normalised_convolution() -> None:
    net = make_net(dtype=torch.float64)
    images, _ = inputs()
    stem = F.conv3d(images.double(), net.stem.kernel, padding=1)
    torch.testing.assert_close(net.stem(images.double(), net.task["channels"]), F.leaky_relu(F.instance_norm(stem), 0.01))


def test_identical_channels_start_as_one() -> None:
    net = make_net(spread=0.3)
    images, coords = inputs()
    net.start_task(1, 1)
    one = net(images, coords, STRIDES)
    for channels in (2, 4):
        net.start_task(channels, 1)
        assert net.task["channels"][0, 0].item() == pytest.approx(1 / channels)
        torch.testing.assert_close(net(images.expand(-1, channels, -1, -1, -1), coords, STRIDES), one, rtol=1e-4, atol=1e-4)


def test_organs_start_from_one_row() -> None:
    net = make_net(spread=0.3)
    images, coords = inputs()
    net.start_task(1, 1)
    single = net(images, coords, STRIDES)
    net.start_task(1, 3)
    assert net.num_organs == 3
    logits = net(images, coords, STRIDES)
    assert logits.shape == (3, 4, *SHAPE) and logits.dtype == torch.float32
    for organ in range(1, 4):
        torch.testing.assert_close(logits[:, organ], single[:, 1])
    torch.testing.assert_close(logits[:, 0], single[:, 0])
    with torch.no_grad():
        net.task["rows"][2, -1] = 1.0  # the constant feature
    torch.testing.assert_close(net(images, coords, STRIDES)[:, 2], single[:, 1] + 1)


def test_another_body_shares_everything_else() -> None:
    net = make_net(spread=0.3)
    other = net.with_body(derive(net.body, genotype_of(net.body)))
    assert other.stem is net.stem and other.head is net.head and other.task is net.task and other.body is not net.body
    assert net.alphas() and not other.alphas()
    assert set(other.weights()) <= set(net.weights())


def test_coordinates_reach_the_logits() -> None:
    net = make_net()
    images, coords = inputs()
    before = net(images, coords, STRIDES)
    with torch.no_grad():
        net.task["rows"][1, -7] = 2.0  # x
    torch.testing.assert_close(net(images, coords, STRIDES)[:, 1], before[:, 1] + 2 * coords[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new"), [((5, 5, 5), (40, 40, 20)), ((3, 2, 1), (5, 4, 1)), ((1, 1, 1), (3, 2, 4)), ((4, 3, 2), (7, 6, 3))]
)
def test_upsampling_equals_torch(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *old, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, size=new, mode="trilinear", align_corners=False)
    torch.testing.assert_close(upsample(x, new), expected, rtol=1e-12, atol=1e-12)
    probe = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((upsample(x, new) * probe).sum(), x), torch.autograd.grad((expected * probe).sum(), x)
    )
    with torch.autocast("cpu", torch.bfloat16):  # scores keep their digits
        found = upsample(x.float(), new)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("organs", [1, 3])
def test_the_head_is_one_linear_map_of_upsampled_features_and_position(last: bool, organs: int) -> None:
    net = make_net(dtype=torch.float64, spread=0.3)
    net.start_task(1, organs)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(organs + 1, net.head.size, generator=generator, dtype=torch.float64, requires_grad=True)
    sizes = [(6, 5, 4), (3, 3, 2), (2, 2, 2)][: len(net.head.widths)]
    features = [
        torch.randn(2, width, *size, generator=generator, dtype=torch.float64)
        .to(memory_format=torch.channels_last_3d if last else torch.contiguous_format)
        .requires_grad_()
        for width, size in zip(net.head.widths, sizes, strict=False)
    ]
    coords = torch.rand(2, 3, *sizes[0], generator=generator, dtype=torch.float64)
    up = [F.interpolate(f, size=sizes[0], mode="trilinear") for f in features]
    absent = [torch.zeros(2, width, *sizes[0]) for width in net.head.widths[len(sizes) :]]
    every = torch.cat([*up, *absent, coords, coords.square(), torch.ones(2, 1, *sizes[0])], 1)
    expected = torch.einsum("kf,bfxyz->bkxyz", net.head.rows(rows), every)
    found = net.head(features, coords, rows)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    probe, inputs = torch.randn(found.shape, generator=generator, dtype=torch.float64), [rows, *features]
    for one, other in zip(
        torch.autograd.grad((found * probe).sum(), inputs), torch.autograd.grad((expected * probe).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_bf16_differs_from_float32_by_rounding(name: str, dims: int) -> None:
    """Not of one scale with it alone: the gradients of all weights together point the same way."""
    found = []
    net = make_net(name, spread=0.3, dims=dims)
    images, coords = inputs()
    parameters = list(net.parameters())
    for bfloat16 in (False, True):
        runtime = Runtime(bfloat16=bfloat16)
        with runtime.autocast():
            logits = net(runtime.place(images), coords, STRIDES)
        assert logits.dtype == torch.float32
        grads = torch.autograd.grad(logits.sigmoid()[:, 1].square().mean(), parameters, allow_unused=True)
        found.append((logits.detach(), torch.cat([g.flatten() for g in grads if g is not None])))
    (single, exact), (half, rough) = found
    assert float((half - single).norm()) < 0.05 * float(single.norm())
    assert float(F.cosine_similarity(exact, rough, dim=0)) > 0.98


def test_upsampling_in_inference_does_not_spoil_training() -> None:
    with torch.inference_mode():
        upsample(torch.zeros(1, 1, 3, 3, 3, dtype=torch.float64), (7, 5, 4))
    x = torch.zeros(1, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    upsample(x, (7, 5, 4)).sum().backward()
    assert float(x.grad.sum()) == pytest.approx(7 * 5 * 4)  # type: ignore[union-attr]
