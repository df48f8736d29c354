"""Gains: factors that bring the outputs of all candidates to one scale before alphas weigh them.

Kernels of unit norm are not comparable: on smooth features an identity keeps the standard deviation, and a random 3x3x3 kernel loses
some of it. The output of each candidate is measured once on real features, channel by channel. Spaces without ``Edge`` and
``Mixture`` have no gains to set, and a native body keeps gains of 1, as its paper has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from .base import Body
from .blocks.edge import Edge
from .blocks.mixture import Mixture
from .blocks.operations import Candidate

#: Bounds of gains: channels with very small or very large outputs keep some of the difference.
BOUNDS = (0.05, 20.0)


@torch.no_grad()
def calibrate(body: Body, batches: Sequence[tuple[Tensor, Sequence[Sequence[int]]]], eps: float = 1e-3) -> None:
    """Set the gain of every candidate to 1 / (std + eps) of its output's channels on what its edge reads in these batches.

    batches: inputs of the body (B, C, X, Y, Z), each with its own strides.
    Gains are buffers: they get no gradient, and they are part of the state.
    """
    if body.takes_images:
        return
    sums: dict[Candidate, tuple[Tensor, Tensor, int]] = {}

    def measure(edge: nn.Module, inputs: tuple[Any, ...]) -> None:
        for op in (op for op in cast(nn.ModuleDict, edge).values() if isinstance(op, Candidate)):
            out = op(inputs[0]).transpose(0, 1).flatten(1).double()
            total, squares, count = sums.get(op, (out.new_zeros(len(out)), out.new_zeros(len(out)), 0))
            sums[op] = (total + out.sum(1), squares + out.square().sum(1), count + out.shape[1])

    handles = [module.register_forward_pre_hook(measure) for module in body.modules() if isinstance(module, Edge | Mixture)]
    before = body.relaxed
    body.relax(replace(before, prune=0.0))
    try:
        for batch, strides in batches:
            body(batch, strides)
    finally:
        body.relax(before)
        for handle in handles:
            handle.remove()
    for op, (total, squares, count) in sums.items():
        std = (squares / count - (total / count).square()).clamp_min(0).sqrt()
        op.gain.copy_((1 / (std + eps)).clamp(*BOUNDS))
