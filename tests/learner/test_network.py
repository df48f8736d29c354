"""Stem, head and the three groups of parameters of a whole segmentation network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metanas_med.learner import Runtime
from metanas_med.learner.runtime import cpu_bfloat16
from metanas_med.space import derive
from metanas_med.space import genotype as genotype_of

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
