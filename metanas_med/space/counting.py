"""Multiply-adds as torch counts them, on the ``meta`` device: nothing is computed and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .base import Triple
from .blocks.operations import Source, build_candidate


def count_multiply_adds(run: Callable[[Tensor], Any], channels: int, shape: Sequence[int]) -> int:
    """Return the multiply-adds of ``run`` on one sample (1, channels, X, Y, Z) of the ``meta`` device.

    Counted are convolutions and matrix products that grow with the number of samples: two samples minus one. The merging of kernels is
    paid once a step, whatever the number of samples, and is left out. Norms, activations, pools and up-sampling count nothing.
    """
    counts = []
    for samples in (1, 2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(torch.empty(samples, channels, *(int(n) for n in shape), device="meta"))
        counts.append(counter.get_total_flops())
    return (counts[1] - counts[0]) // 2


@lru_cache(maxsize=4096)
def candidate_multiply_adds(name: str, cin: int, cout: int, dims: int, volume: Triple, stride: Triple) -> int:
    """Return the multiply-adds of a candidate, run by itself on ``volume`` input voxels (one slice in 2D)."""
    with torch.device("meta"):
        candidate = build_candidate(name, cin, cout, dims)
    return count_multiply_adds(lambda x: candidate(Source(x, stride)), cin, volume)
