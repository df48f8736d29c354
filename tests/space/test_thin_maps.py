"""Gradients of kernels on maps thinner than the kernel: the processor's bfloat16 ones held memory that nothing wrote."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metanas_med.space import CANDIDATES
from metanas_med.space.blocks.operations import Source, build_candidate, conv3d

#: sizes and strides of the coarsest levels, some of which showed the defect
PLACES = [
    ((2, 2, 1), (1, 1, 1)),
    ((2, 2, 2), (1, 1, 1)),
    ((2, 5, 4), (1, 1, 1)),
    ((3, 5, 1), (2, 2, 2)),
    ((4, 2, 1), (2, 2, 2)),
    ((4, 4, 2), (2, 2, 1)),
]


def poison() -> None:
    """Leave large numbers in memory that the next allocations are likely to get."""
    junk = [torch.full((size,), 1e30) for size in (500, 2000, 8 * 8 * 27, 8 * 8 * 54, 16 * 16 * 27, 40_000)]
    del junk


@pytest.mark.parametrize("name", CANDIDATES.names())
def test_gradients_in_bfloat16_are_those_of_float32(name: str) -> None:
    """For every candidate, also after other numbers were in that memory. Norms over a few voxels magnify rounding: hence the limit."""
    for shape, stride in PLACES:
        op = build_candidate(name, 8, 8, 3, torch.Generator().manual_seed(0))
        parameters = list(op.parameters())
        if not parameters:
            return
        x = torch.randn(2, 8, *shape, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last_3d)
        exact = op(Source(x, stride))
        upstream = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2))
        want = torch.autograd.grad(exact, parameters, upstream)
        for _ in range(3):
            poison()
            with torch.autocast("cpu", torch.bfloat16):
                out = op(Source(x, stride))
            found = torch.autograd.grad(out, parameters, upstream.to(out.dtype))
            for one, other in zip(found, want, strict=True):
                scale = float(other.abs().max())
                assert float((one - other).abs().max()) <= 10 * scale + 1e-3, (shape, stride)


def test_thin_maps_are_convolved_as_torch_does() -> None:
    """Without autocast nothing changes, and with it the result is bfloat16 as ever."""
    x, kernel = torch.randn(1, 4, 2, 3, 1), torch.randn(5, 4, 3, 3, 3)
    assert torch.equal(conv3d(x, kernel, None, (1, 1, 1), (1, 1, 1)), F.conv3d(x, kernel, None, 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        out = conv3d(x, kernel, None, (1, 1, 1), (1, 1, 1))
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), F.conv3d(x, kernel, None, 1, 1), rtol=0.02, atol=0.1)
