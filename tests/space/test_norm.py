"""The fused norm and activation, and the pool, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metanas_med.space.blocks import norm as norm_module
from metanas_med.space.blocks.mix import mix
from metanas_med.space.blocks.norm import Norm, NormAct, norm_act
from metanas_med.space.blocks.operations import Source
from metanas_med.space.network import Stem


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("many", [1, 2**14])  # samples one by one, or all at once
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 3), (1, 4, 2, 1, 1)])
def test_norm_equals_torch(monkeypatch: pytest.MonkeyPatch, last: bool, many: int, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(norm_module, "_MANY", many)
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


@pytest.mark.parametrize("many", [1, 2**14])
@pytest.mark.parametrize("shape", [(3, 8, 6, 5, 4), (2, 16, 2, 1, 1)])
def test_bf16_maps_stay_bf16_with_float32_statistics(monkeypatch: pytest.MonkeyPatch, many: int, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(norm_module, "_MANY", many)
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator) * 2 + 3).bfloat16().to(memory_format=torch.channels_last_3d).requires_grad_()
    weight = (1 + 0.3 * torch.randn(shape[1], generator=generator)).requires_grad_()
    bias = (0.3 * torch.randn(shape[1], generator=generator)).requires_grad_()
    probe = torch.randn(shape, generator=generator).bfloat16()
    found, inputs = norm_act(x, weight, bias), (x, weight, bias)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last_3d)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = F.leaky_relu(F.group_norm(exact[0], shape[1], exact[1], exact[2], 1e-5), 0.01)
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-3)
    first = torch.autograd.grad(found, inputs, probe, retain_graph=True)
    second = torch.autograd.grad(found, inputs, probe, create_graph=True)  # the differentiable way
    for one, two, other in zip(first, second, torch.autograd.grad(expected, exact, probe.double()), strict=True):
        two = two.detach()
        assert one.dtype == two.dtype != torch.float64
        assert float((one - other).norm()) < 0.02 * float(other.norm()) + 1e-3
        assert float((two - other).norm()) < 0.02 * float(other.norm()) + 1e-3


def test_gradients_of_scalars_of_bf16_maps_keep_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 4, 8, 8, 8, generator=generator).bfloat16().to(memory_format=torch.channels_last_3d) for _ in "ab")
    p, q = (torch.tensor(value, requires_grad=True) for value in (0.3, 0.7))
    out = mix(a, p, b, q)
    assert out.dtype == torch.bfloat16
    found = torch.autograd.grad(out, (p, q), torch.ones_like(out) + a)  # rounded once a sample
    above = (torch.ones_like(out) + a).double()
    for one, other in zip(found, (a, b), strict=True):
        assert one.dtype == torch.float32
        assert float(one) == pytest.approx(float((above * other.double()).sum()), rel=4e-3, abs=0.5)


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
