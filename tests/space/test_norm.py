"""The fused norm and activation, and the pool, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metanas_med.space.blocks.norm import Norm, NormAct
from metanas_med.space.blocks.operations import Source
from metanas_med.space.network import Stem


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 3), (1, 4, 2, 1, 1)])
def test_norm_equals_torch(last: bool, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 5
    x = (x.to(memory_format=torch.channels_last_3d) if last else x).requires_grad_()
    norm = Norm(shape[1]).double()
    with torch.no_grad():
        for p in norm.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3)
    inputs = (x, norm.weight, norm.bias)
    expected = F.leaky_relu(F.group_norm(x, shape[1], norm.weight, norm.bias, 1e-5), 0.01)
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)
    probe = torch.randn(shape, generator=generator, dtype=x.dtype)  # in the other format than x, where x is channels-last
    grads = torch.autograd.grad((norm(x) * probe).sum(), inputs)
    for one, other in zip(grads, torch.autograd.grad((expected * probe).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    again = torch.autograd.grad((norm(x) * probe).sum(), inputs, create_graph=True)
    torch.testing.assert_close(again, grads, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradgradcheck(lambda *tensors: NormAct.apply(*tensors)[0], inputs, atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("mean", "std"), [(5.0, 0.5), (-3.0, 0.02)])
def test_float32_keeps_its_digits_where_a_map_is_nearly_flat(last: bool, mean: float, std: float) -> None:
    """Air of a CT, with its noise: E[x^2] - E[x]^2 would be noise alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, 24, 24, 20), generator=generator) * std + mean
    x = (x.to(memory_format=torch.channels_last_3d) if last else x).requires_grad_()
    norm, probe = Norm(3), torch.randn(x.shape, generator=generator)
    out, exact = norm(x), x.detach().double().requires_grad_()
    expected = F.leaky_relu(F.instance_norm(exact, eps=1e-5), 0.01)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-4)
    (grad,), (other,) = torch.autograd.grad((out * probe).sum(), x), torch.autograd.grad((expected * probe).sum(), exact)
    assert (
        grad - other
    ).abs().median() < 1e-4 * other.abs().median()  # the mean would be of voxels at the kink, whose sign is chance


def test_the_stem_takes_one_voxel() -> None:
    out = Stem(8, 3)(torch.full((2, 1, 1, 1, 1), 0.7), torch.ones(8, 1))
    assert out.shape == (2, 8, 1, 1, 1) and out.isfinite().all() and bool((out.abs() > 0.1).any())


@pytest.mark.parametrize("channels", [1, 3, 8, 12, 64])
def test_one_voxel_is_neither_nothing_nor_infinite(channels: int) -> None:
    x = torch.randn(2, channels, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    out = Norm(channels)(x)
    assert out.isfinite().all() and (channels == 1 or bool(out.any()))
    torch.testing.assert_close(Norm(channels)(x[:1]), out[:1])


def test_max_pool_equals_torch() -> None:
    x = torch.randn(2, 3, 5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    found = Source(x, (2, 2, 1)).max_pool((3, 3, 3))
    expected = F.max_pool3d(x, 3, (2, 2, 1), 1)
    assert torch.equal(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), x), torch.autograd.grad(expected.square().sum(), x), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradgradcheck(lambda x: Source(x, (1, 1, 1)).max_pool((3, 3, 1)), (x,))
