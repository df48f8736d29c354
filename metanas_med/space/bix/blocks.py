"""What the parts of BiX-NAS do with maps: resizing and averaging, and the batch norm of the native form."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Triple
from ..blocks.mix import mix
from ..blocks.operations import Candidate, Source, build_candidate, has_size


class BatchNormAct(nn.Module):
    """Batch norm with scale and shift, then a ReLU: (B, C, X, Y, Z) to the same shape. For native forms only.

    Statistics are those of the batch at hand, in training and in prediction; there are no running ones. The result for a scan
    therefore depends on the other scans of its batch, and in 2D the slices of a volume are samples of one batch. Predict scans one
    by one if results must not depend on what else is predicted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] * prod(x.shape[2:]) == 1:  # torch refuses one value a channel: it never deviates from its own mean
            return F.relu(self.bias.view(1, -1, 1, 1, 1) + x * 0)
        return F.relu(F.batch_norm(x, None, None, self.weight, self.bias, True))


class Levels:
    """The sizes of all levels in one forward pass, and the way from one to another."""

    def __init__(self, sizes: Sequence[Triple], steps: Sequence[Triple], mode: str) -> None:
        """``sizes``: (X, Y, Z) of each level; ``steps``: the strides between them; ``mode``: of interpolation to finer levels."""
        self.sizes, self.steps, self.mode = sizes, steps, mode

    def resize(self, x: Tensor, old: int, new: int) -> Tensor:
        """Return (B, C, X, Y, Z) of level ``old`` at level ``new``: max-pooled to a coarser one, interpolated to a finer one.

        Levels round up: the last window of a pool may be smaller than the others.
        """
        if new > old:
            kernel = tuple(prod(step[axis] for step in self.steps[old:new]) for axis in range(3))
            return F.max_pool3d(x, kernel, ceil_mode=True) if prod(kernel) > 1 else x
        size = self.sizes[new]
        return x if has_size(x, size) else F.interpolate(x, size=size, mode=self.mode)


def average(maps: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
    """Return the mean of maps of one shape, weighted by scalars that need not sum to 1; None is 1."""
    if len(maps) == 1:
        return maps[0]
    known = [weight for weight in weights if weight is not None]
    if not known:
        return sum(maps[1:], maps[0]) / len(maps)
    total = torch.stack(known).sum() + (len(weights) - len(known))
    shares = [1 / total if weight is None else weight / total for weight in weights]
    found = mix(maps[0], shares[0])
    for x, share in zip(maps[1:], shares[1:], strict=True):
        found = mix(found, None, x, share)
    return found


def chain(x: Tensor, convs: nn.ModuleDict, norms: nn.ModuleDict, kernels: str, name: str, count: int = 2) -> Tensor:
    """Return ``x`` after ``count`` convolutions ``kernels``_0, ... , each with the norm and activation ``name``_0, ..."""
    for number in range(count):
        conv: Candidate = convs[f"{kernels}_{number}"]  # type: ignore[assignment]
        x = norms[f"{name}_{number}"](conv(Source(x)))
    return x


def add_chain(
    convs: nn.ModuleDict, kernels: str, widths: Sequence[int], dims: int, generator: torch.Generator | None = None
) -> None:
    """Put 3x3x3 convolutions (in 2D 3x3x1) from each of ``widths`` to the next into ``convs``, as ``chain`` runs them."""
    for number, (cin, cout) in enumerate(zip(widths, widths[1:], strict=False)):
        convs[f"{kernels}_{number}"] = build_candidate("conv331" if dims == 2 else "conv333", cin, cout, dims, generator)


def add_norms(norms: nn.ModuleDict, name: str, widths: Sequence[int], kind: type[nn.Module]) -> None:
    """Put norms of ``widths`` channels into ``norms``, as ``chain`` runs them."""
    for number, width in enumerate(widths):
        norms[f"{name}_{number}"] = kind(width)
