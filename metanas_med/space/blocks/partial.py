"""Partial channels (Xu et al. 2020, PC-DARTS, arXiv 1907.05737, section 3.1): 1/K of the channels go through a mixture.

The first ``cin // K`` channels are read by the leading part of a candidate, which gives the first ``cout // K`` channels. The other
channels of the input pass by, max-pooled where the edge is strided. Then channels are shuffled in K groups. In the paper candidates have
``C / K`` channels and the network is trained again with all of them; here the derived network keeps the weights, of which the search
has trained the leading part.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.func import functional_call

from ..base import Triple
from ..narrow import leading
from .operations import Candidate, Source, pool_windows


def is_partial(cin: int, cout: int, k: int) -> bool:
    """Return whether an edge is wide enough for ``k`` groups of channels; a narrower one is run as a whole."""
    return k > 1 and cin >= k and cout >= k


def leading_source(source: Source, k: int) -> Source:
    """Return the first 1/k of the channels."""
    return source.leading(source.x.shape[1] // k)


def run_part(op: Candidate, source: Source, scale: Tensor | None, k: int) -> Tensor:
    """Return the output of the leading 1/k of ``op`` on ``source``, which has as many channels, with the leading part of ``scale``."""
    if k == 1:
        return op(source, scale)  # type: ignore[no-any-return]
    shell, shapes = _shell(type(op), op.cin // k, op.cout // k, op.size)
    own: dict[str, Tensor] = {**dict(op.named_parameters()), **dict(op.named_buffers())}
    parts = {name: leading(own[name], shape) for name, shape in shapes.items()}
    return functional_call(shell, parts, (source, None if scale is None else scale[: op.cout // k]))


def run_weighted(op: Candidate, source: Source, weight: Tensor, k: int, detached: bool) -> Tensor:
    """Return ``weight`` (a scalar) times the output of the leading 1/k of ``op``; ``detached``: only the weight gets a gradient.

    The weight goes into the kernel where there is one, so that nothing of the size of a map is saved for its gradient.
    """
    gain = getattr(op, "gain", None)
    if gain is not None and not detached:
        return run_part(op, source, gain * weight, k)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
        out = run_part(op, source, gain, k)
    return weight * out


def passed(mixed: Tensor, source: Source, cout: int, k: int, weight: Tensor | None = None) -> Tensor:
    """Return ``mixed`` (B, cout // k, ...) and the channels of ``source`` that pass by, shuffled: (B, cout, ...).

    ``weight``: of the passing channels. Where ``cout`` is larger than the number of input channels, they are repeated.
    """
    x, missing = source.x, cout - mixed.shape[1]
    rest = x[:, x.shape[1] // k :]
    if source.stride != (1, 1, 1):
        rest = pool_windows(rest, source.stride, largest=True)
    if rest.shape[1] != missing:
        rest = rest[:, [channel % rest.shape[1] for channel in range(missing)]]
    if weight is not None:
        rest = rest * weight
    return torch.cat([mixed, rest.to(mixed.dtype)], 1)[:, _shuffled(cout, k)]


@lru_cache(maxsize=256)
def _shuffled(channels: int, k: int) -> list[int]:
    """Return the order of channels after a shuffle by ``k`` groups; channels in excess of a multiple of ``k`` stay last."""
    whole = channels // k
    return [group * whole + place for place in range(whole) for group in range(k)] + list(range(k * whole, channels))


@lru_cache(maxsize=256)
def _shell(kind: type[Candidate], cin: int, cout: int, size: Triple) -> tuple[Candidate, dict[str, torch.Size]]:
    """Return a candidate without values, which runs with the tensors of others, and the shapes of these tensors."""
    with torch.device("meta"):
        made = kind(cin, cout, size)
    every = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    return made, {name: value.shape for name, value in every.items()}
