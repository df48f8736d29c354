"""The door of candidate operations: what an edge may do. Linear ones have a kernel and can be merged; each can run by itself.

A file of this folder that registers a candidate (``@register_candidate("name")``) is all that a new one needs: a space of cells then
takes its name in ``space.candidates``.

Every candidate maps (B, cin, X, Y, Z) to (B, cout, ceil(X / sx), ceil(Y / sy), ceil(Z / sz)), has no bias, pads with zeros around a
centred kernel, and has a per-channel ``gain``: a buffer measured once (calibrate.py), so that all start on one scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import Registry
from ..base import Triple
from .merge import Part


class Source:
    """A tensor that edges read with one stride; what several edges need is computed once."""

    def __init__(self, x: Tensor, stride: Triple = (1, 1, 1)) -> None:
        self.x = x
        self.stride = stride
        self._pooled: Tensor | None = None
        self._thinned: Tensor | None = None

    def thinned(self) -> Tensor:
        """Return every stride-th voxel."""
        if self._thinned is None:
            sx, sy, sz = self.stride
            last = self.x.is_contiguous(memory_format=torch.channels_last_3d)
            thin = self.x if self.stride == (1, 1, 1) else self.x[:, :, ::sx, ::sy, ::sz]
            self._thinned = thin.contiguous(memory_format=torch.channels_last_3d) if last else thin
        return self._thinned

    def leading(self, channels: int) -> Source:
        """Return the first ``channels`` channels, read in the same way."""
        return Source(self.x[:, :channels], self.stride)

    def max_pool(self, size: Triple) -> Tensor:
        pooled = _MaxPool.apply(self.x, size, self.stride)[0] if self._pooled is None else self._pooled  # type: ignore[index]
        self._pooled = pooled
        return pooled


def padding_of(size: Sequence[int]) -> Triple:
    """Return the padding that keeps a kernel of ``size`` centred."""
    return (size[0] // 2, size[1] // 2, size[2] // 2)


def scaled(kernel: Tensor, scale: Tensor | None) -> Tensor:
    """Return a kernel (cout, ...) with output channel c times ``scale[c]``."""
    return kernel if scale is None else kernel * scale.view(-1, 1, 1, 1, 1)


def times(x: Tensor, scale: Tensor | None) -> Tensor:
    """Return features (B, C, X, Y, Z) with channel c times ``scale[c]``."""
    return x if scale is None else x * scale.view(1, -1, 1, 1, 1)


class _MaxPool(torch.autograd.Function):
    """Max pooling that keeps its indices in half the memory."""

    @staticmethod
    def forward(x: Tensor, size: Triple, stride: Triple) -> tuple[Tensor, Tensor]:
        pooled, places = torch.ops.aten.max_pool3d_with_indices(x, size, stride, padding_of(size))
        return pooled, places.int()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.size, ctx.stride = inputs
        ctx.save_for_backward(x, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, places = ctx.saved_tensors
        backward = torch.ops.aten.max_pool3d_with_indices_backward
        padding = padding_of(ctx.size)
        return backward(grad_outputs[0], x, ctx.size, ctx.stride, padding, (1, 1, 1), False, places.long()), None, None


def pool_windows(x: Tensor, stride: Triple, largest: bool) -> Tensor:
    """Return the largest voxel, or the mean, of windows as large as the stride; at a border, of the voxels that are left.

    A map that is thinner than a window is one window: torch refuses it.
    """
    window = [min(extent, step) for extent, step in zip(x.shape[2:], stride, strict=True)]
    return (F.max_pool3d if largest else F.avg_pool3d)(x, window, stride, ceil_mode=True)


def conv3d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """Return ``torch.nn.functional.conv3d``; in float32 where the bfloat16 gradient of the kernel would be wrong (``is_thin``)."""
    if not is_thin(x, kernel):
        return F.conv3d(x, kernel, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        out = F.conv3d(x.float(), kernel.float(), None if bias is None else bias.float(), stride, padding, dilation, groups)
    return out.bfloat16()


def has_size(x: Tensor, size: Sequence[int]) -> bool:
    """Return whether a map (B, C, X, Y, Z) has ``size`` (X, Y, Z) already.

    Never in an export, where sizes are symbols and an answer would fix them: there it is resized, which then changes nothing.
    """
    return not torch.compiler.is_exporting() and tuple(x.shape[2:]) == tuple(size)


def is_thin(x: Tensor, kernel: Tensor) -> bool:
    """Return whether ``x`` (B, C, X, Y, Z) is convolved in bfloat16 on a CPU and is thinner than the kernel along an axis.

    There the gradient of the kernel holds memory that nothing wrote: for example X = 2 and three taps along X, or Z = 1, three taps and
    stride 2 along Z (oneDNN in torch 2.15). Such maps are small, so float32 costs nothing measurable.
    """
    if x.device.type != "cpu" or not (torch.is_autocast_enabled("cpu") or x.dtype == torch.bfloat16):
        return False
    return is_thinner(x, kernel)


def is_thinner(x: Tensor, kernel: Tensor) -> bool:
    """Return whether ``x`` (B, C, X, Y, Z) has fewer voxels than the kernel (..., kx, ky, kz) has taps along an axis."""
    return any(extent < taps for extent, taps in zip(x.shape[2:], kernel.shape[2:], strict=True))


def pointwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Return the 1x1x1 convolution of (B, cin, X, Y, Z) with a kernel (cout, cin, 1, 1, 1)."""
    # in an export the layout of a map follows from sizes that are symbols
    if torch.compiler.is_exporting() or not x.is_contiguous(memory_format=torch.channels_last_3d):
        return F.conv3d(x, kernel)
    # a matrix product on voxels: two to seven times as fast here, and the result stays channels-last, which conv3d's does not
    return F.linear(x.permute(0, 2, 3, 4, 1), kernel.flatten(1)).permute(0, 4, 1, 2, 3)


def convolve(source: Source, kernel: Tensor) -> Tensor:
    """Return the centred, zero-padded convolution of a source with a kernel (cout, cin, kx, ky, kz)."""
    if kernel.shape[2:].numel() == 1:
        return pointwise(source.thinned(), kernel)
    return conv3d(source.x, kernel, None, source.stride, padding_of(kernel.shape[2:]))


class Candidate(nn.Module):
    """A candidate operation; ``size`` is the extent of its kernel."""

    merges = True  #: it is linear, inside 3x3x3, and has a kernel
    family = ""  #: of those that do not merge: weights of one operation of a family can imitate the others of it
    gain: Tensor

    def __init__(self, cin: int, cout: int, size: Triple, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cin, self.cout, self.size = cin, cout, size
        self.register_buffer("gain", torch.ones(cout))
        for name, shape in self.shapes(cin, cout, size).items():
            std = 1.0 / math.sqrt(math.prod(shape[1:]))  # keeps the variance of white input
            value = torch.empty(shape)
            if not value.is_meta:  # there only shapes matter, and draws would take most of the time
                value.normal_(0.0, std, generator=generator)
            self.register_parameter(name, nn.Parameter(value))

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters by name."""
        raise NotImplementedError

    def part(self) -> Part:
        """Return the kernel of a linear candidate for a merged sum, without its gain."""
        raise NotImplementedError

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        """Return the output with channel c times ``scale[c]`` (the scale goes into the smallest kernel, not into voxels)."""
        raise NotImplementedError


@dataclass(frozen=True)
class CandidateKind:
    """A registered candidate: its class, the size of its kernel, and the candidate that takes its place in 2D."""

    kind: type[Candidate]
    size: Triple
    flat: str | None  #: name in 2D; None: it has no counterpart there

    def __call__(self, cin: int, cout: int, dims: int, generator: torch.Generator | None = None) -> Candidate:
        """Return a candidate with fresh weights; a kernel is flat in 2D."""
        return self.kind(cin, cout, self.size_in(dims), generator)

    def size_in(self, dims: int) -> Triple:
        """Return the size of the kernel."""
        return (self.size[0], self.size[1], 1) if dims == 2 else self.size


CANDIDATES: Registry[Candidate] = Registry("candidate")
KindT = TypeVar("KindT", bound=type[Candidate])


def register_candidate(name: str, size: Triple = (3, 3, 3), flat: str | None = "", source: str = "") -> Callable[[KindT], KindT]:
    """Return a decorator that registers a candidate class as ``name`` with a kernel of ``size``.

    ``flat`` is the candidate that takes its place in 2D: empty for itself with a flat kernel, None for none.
    """

    def note(kind: KindT) -> KindT:
        made = CandidateKind(kind, size, name if flat == "" else flat)
        object.__setattr__(made, "__doc__", kind.__doc__)  # what a list of candidates shows
        costs = "merges with other linear operations into one convolution" if kind.merges else "runs by itself"
        CANDIDATES.register(name, source=source, costs=costs)(made)
        return kind

    return note


def candidate_kind(name: str) -> CandidateKind:
    """Return a registered candidate; ConfigError, with the closest name, where it is unknown."""
    found = CANDIDATES.entry(name).factory
    assert isinstance(found, CandidateKind), f"{name} was not registered by register_candidate"
    return found


def build_candidate(name: str, cin: int, cout: int, dims: int, generator: torch.Generator | None = None) -> Candidate:
    """Return a candidate with fresh weights."""
    return candidate_kind(name)(cin, cout, dims, generator)


def fold(x: Tensor) -> Tensor:
    """Return the slices of (B, C, X, Y, Z) as samples (B * Z, C, X, Y, 1), channels last in memory."""
    batch, channels, *plane, slices = x.shape
    return x.permute(0, 4, 2, 3, 1).reshape(batch * slices, *plane, 1, channels).permute(0, 4, 1, 2, 3)


def unfold(x: Tensor, batch: int) -> Tensor:
    """Return slices (B * Z, C, X, Y, 1) stacked to volumes (B, C, X, Y, Z), channels last in memory."""
    x = x[..., 0].permute(0, 2, 3, 1)
    return x.reshape(batch, -1, *x.shape[1:]).permute(0, 2, 3, 1, 4).contiguous().permute(0, 4, 1, 2, 3)
