"""One merged convolution against the sum of all candidates run by themselves: outputs and gradients."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from metanas_med.space import UNetSupernetSettings
from metanas_med.space.base import Triple
from metanas_med.space.blocks.edge import Edge, Read, merge_reads
from metanas_med.space.blocks.merge import Form, Part, Size, merge_kernels
from metanas_med.space.blocks.mix import mix
from metanas_med.space.blocks.operations import Candidate, Source, build_candidate
from metanas_med.space.unet_plan import MERGED, UNMERGED, candidate_names


def run(edge: Edge, x: Tensor, stride: Triple, p: Tensor, weight: Tensor, separate: bool) -> list[Tensor]:
    """Return the output and the gradients with respect to everything."""
    edge.separate = separate
    wanted = [x, p, weight, *edge.parameters()]
    for tensor in wanted:
        tensor.requires_grad_(True)
    read = Read(edge, weight, p.softmax(0), list(range(len(edge))))
    merge_reads([read])
    out = edge(Source(x, stride), read)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad((out * probe).sum(), wanted)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("channels", [(5, 5), (4, 7)])
@pytest.mark.parametrize(("dims", "shape"), [(3, (7, 8, 5)), (3, (6, 5, 1)), (3, (1, 2, 2)), (2, (7, 8, 1))])
@pytest.mark.parametrize("coarse", [False, True])
def test_merged_equals_separate(
    dtype: torch.dtype, stride: Triple, channels: tuple[int, int], dims: int, shape: Triple, coarse: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    names = candidate_names(UNetSupernetSettings(dims=dims, coarse_from=0 if coarse else 9), 0)  # type: ignore[arg-type]
    stride = (stride[0], stride[1], 1) if dims == 2 else stride
    edge = Edge(names, *channels, dims, False, generator).to(dtype)
    for op in edge.values():
        cast(Candidate, op).gain.uniform_(0.5, 2.0, generator=generator)
    x = torch.randn(2, channels[0], *shape, generator=generator, dtype=dtype)
    p = torch.randn(len(names), generator=generator, dtype=dtype)
    weight = torch.tensor(0.6, dtype=dtype)
    merged, separate = run(edge, x, stride, p, weight, False), run(edge, x, stride, p, weight, True)
    for one, other in zip(merged, separate, strict=True):
        scale = other.abs().max()
        assert (one - other).abs().max() <= (1e-10 if dtype == torch.float64 else 1e-5) * scale.clamp_min(1.0)


def test_kernel_sum() -> None:
    """Against padded copies."""
    generator = torch.Generator().manual_seed(0)
    sizes: list[Size] = [(3, 3, 3), (3, 3, 1), (1, 3, 3), (1, 1, 1)]
    kernels = [torch.randn(3, 2, *size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes]
    coefficients = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(3, 2, 3, 3, 3, dtype=torch.float64)
    for row, kernel in zip(coefficients, kernels, strict=True):
        pad = [(3 - extent) // 2 for extent in kernel.shape[:1:-1] for _ in range(2)]
        expected = expected + row.view(-1, 1, 1, 1, 1) * torch.nn.functional.pad(kernel, pad)
    parts = [Part("plain", size, (kernel,)) for size, kernel in zip(sizes, kernels, strict=True)]
    torch.testing.assert_close(merge_kernels(coefficients[None], [parts], 2)[0], expected, rtol=1e-12, atol=1e-12)


FORMS: dict[str, tuple[Form, Size, tuple[tuple[int, ...], ...]]] = {
    "kernel": ("plain", (3, 3, 3), ((3, 2, 3, 3, 3),)),
    "flat": ("plain", (3, 1, 3), ((3, 2, 3, 1, 3),)),
    "chain": ("chain", (3, 3, 3), ((3, 2, 3, 3, 1), (3, 3, 1, 1, 3))),
    "product": ("product", (3, 3, 1), ((3, 2, 1, 1, 1), (2, 1, 3, 3, 1))),
    "point": ("constant", (1, 1, 1), ((3, 2, 1, 1, 1),)),
    "box": ("constant", (3, 3, 1), ((3, 2, 1, 1, 1),)),
}


@pytest.mark.parametrize("names", [tuple(FORMS), ("flat",), ("chain",), ("product", "flat"), ("point",), ("box", "point")])
@pytest.mark.parametrize("num_edges", [1, 2])
def test_first_and_second_derivatives(names: tuple[str, ...], num_edges: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layout = [FORMS[name] for name in names]

    def merged(coefficients: Tensor, *factors: Tensor) -> Tensor:
        left = list(factors)
        edges = [[Part(form, size, tuple(left.pop(0) for _ in own)) for form, size, own in layout] for _ in range(num_edges)]
        return torch.stack(merge_kernels(coefficients, edges, 2))

    shapes = [(num_edges, len(names), 3), *[shape for _, _, own in layout for shape in own] * num_edges]
    inputs = tuple(torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(merged, inputs)
    assert torch.autograd.gradgradcheck(merged, inputs)


def test_unit_matrices_have_derivatives() -> None:
    coefficients = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    parts = [Part("constant", (3, 3, 3), ()), Part("constant", (1, 1, 1), ())]
    assert torch.autograd.gradcheck(lambda c: merge_kernels(c[None], [parts], 3)[0], (coefficients,))


def test_the_merged_kernel_is_no_larger_than_it_must_be() -> None:
    parts = [Part("plain", (3, 3, 1), (torch.ones(2, 2, 3, 3, 1),)), Part("constant", (1, 1, 1), ())]
    assert merge_kernels(torch.ones(1, 2, 2), [parts], 2)[0].shape == (2, 2, 3, 3, 1)


@pytest.mark.parametrize("last", [False, True])
def test_mix(last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 2, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    if last:
        a = a.to(memory_format=torch.channels_last_3d)
    p, q = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    inputs = tuple(tensor.requires_grad_() for tensor in (a, p, b, q))
    torch.testing.assert_close(mix(*inputs), p * a + q * b)
    torch.testing.assert_close(mix(a, None, b, q), a + q * b)
    torch.testing.assert_close(mix(a, p), p * a)
    assert torch.equal(mix(a, None, b), a + b)
    assert torch.equal(mix(a, None), a)
    for function in (lambda a, p, b, q: mix(a, p, b, q), lambda a, p, b, q: mix(a, None, b, q), lambda a, p, b, q: mix(a, p)):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_candidates_translate_to_2d() -> None:
    flat = candidate_names(UNetSupernetSettings(dims=2, coarse_from=2), 2)
    assert flat == ("conv331", "conv311", "conv131", "conv111", "dwsep331", "identity", "dilated331", "max_pool", "avg_pool")
    assert candidate_names(UNetSupernetSettings(), 1) == MERGED
    assert candidate_names(UNetSupernetSettings(coarse_from=2), 2) == MERGED + UNMERGED
    assert candidate_names(UNetSupernetSettings(edge="plain", dims=2), 3) == ("conv331",)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1)])
def test_separable_run_dense_equals_separable_run_factored(monkeypatch: pytest.MonkeyPatch, stride: tuple[int, int, int]) -> None:
    """Training in bf16 on a CPU takes the dense way; here in float64, values and gradients."""
    g = torch.Generator().manual_seed(0)
    candidate = build_candidate("dwsep333", 4, 6, 3, g).double()
    x, scale = torch.randn(2, 4, 7, 6, 5, generator=g, dtype=torch.float64), torch.rand(6, generator=g, dtype=torch.float64)
    found = []
    for dense in (False, True):
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device, dense=dense: dense)
        y = candidate(Source(x, stride), scale)
        found.append((y, *torch.autograd.grad(y.square().sum(), list(candidate.parameters()))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    monkeypatch.undo()
    calls = []
    original = torch.nn.functional.conv3d
    monkeypatch.setattr(torch.nn.functional, "conv3d", lambda *a: calls.append(a[1].shape[1]) or original(*a))
    with torch.autocast("cpu", torch.bfloat16):
        candidate.float()(Source(x.float(), stride), scale.float())
        with torch.no_grad():
            candidate(Source(x.float(), stride), scale.float())
    assert calls[:2] == [4, 1]  # dense in training, depthwise where no gradient is asked for
