"""A segmentation network: stem, body (any search space), head; and the three named groups of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Body
from .blocks.norm import norm_act
from .blocks.operations import conv3d, pointwise

#: features of a voxel's position: x, y, z, their squares, and one constant
NUM_POSITION = 7


class Stem(nn.Module):
    """One meta-learned single-channel kernel times a vector for each channel, which is learned in the task.

    The kernel of input channel c is ``kernel[o] * channels[o, c]``; ``channels`` starts at 1/C, so that a network meta-learned on
    one channel takes any number. Input (B, C, X, Y, Z), output (B, width, X, Y, Z), normalised and activated.
    """

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        depth = 3 if dims == 3 else 1
        self.kernel = nn.Parameter(torch.empty(width, 1, 3, 3, depth))
        nn.init.kaiming_normal_(self.kernel, a=0.01)

    @property
    def width(self) -> int:
        """The number of output channels."""
        return self.kernel.shape[0]

    def start(self, num_channels: int) -> Tensor:
        """Return the vectors (width, num_channels) of a new task."""
        return torch.full((self.width, num_channels), 1.0 / num_channels, device=self.kernel.device)

    def convolve(self, x: Tensor, channels: Tensor) -> Tensor:
        """Return the output before norm and activation."""
        kernel = self.kernel * channels[:, :, None, None, None]
        return conv3d(x, kernel, padding=(1, 1, self.kernel.shape[-1] // 2))

    def forward(self, x: Tensor, channels: Tensor) -> Tensor:
        return norm_act(self.convolve(x, channels))


class ChannelMix(nn.Module):
    """In place of the stem where a body has its own (native.py): mixes image channels into those that the body takes.

    Images pass as they are where the numbers of channels are equal, until the task learns other vectors; otherwise each is the mean.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def start(self, num_channels: int) -> Tensor:
        """Return the vectors (width, num_channels) of a new task."""
        if num_channels == self.width:
            return torch.eye(self.width)
        return torch.full((self.width, num_channels), 1.0 / num_channels)

    def forward(self, x: Tensor, channels: Tensor) -> Tensor:
        """Return images (B, width, X, Y, Z) of (B, C, X, Y, Z)."""
        return torch.einsum("oc,bcxyz->boxyz", channels, x)


class Head(nn.Module):
    """One meta-learned row for background and one for "the organ"; a task's K + 1 rows add their own offsets to them.

    Rows act on features of every decoder level. A 1x1x1 map and trilinear upsampling commute, so each level is mapped to K + 1
    channels first and upsampled then; only K + 1 channels are ever held at full resolution.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.size = sum(widths) + NUM_POSITION
        self.background = nn.Parameter(torch.zeros(self.size))
        self.organ = nn.Parameter(torch.zeros(self.size))
        with torch.no_grad():
            nn.init.normal_(self.background[:-NUM_POSITION], std=0.05)
            nn.init.normal_(self.organ[:-NUM_POSITION], std=0.05)

    def rows(self, offsets: Tensor) -> Tensor:
        """Return the rows (K + 1, F) of a task with ``offsets`` (K + 1, F)."""
        organs = self.organ.expand(offsets.shape[0] - 1, -1)
        return torch.cat([self.background[None], organs]) + offsets

    def pad(self, features: Tensor, widths: Sequence[int]) -> Tensor:
        """Return (n, F) features with zeros for levels and channels that a network of ``widths`` lacks."""
        if tuple(widths) == self.widths:
            return features
        parts = features.split([*widths, NUM_POSITION], 1)
        missing = [full - own for full, own in zip(self.widths, [*widths, *([0] * len(self.widths))], strict=False)]
        padded = [F.pad(part, (0, more)) for part, more in zip(parts, missing, strict=False)][: len(widths)]
        return torch.cat([*padded, features.new_zeros(len(features), sum(missing[len(widths) :])), parts[-1]], 1)

    def forward(self, features: Sequence[Tensor], coords: Tensor, offsets: Tensor) -> Tensor:
        """Return logits (B, K + 1, X, Y, Z) float32 of decoder ``features`` (finest first) and ``coords`` (B, 3, X, Y, Z)."""
        rows = self.rows(offsets)
        size = features[0].shape[2:]
        position = rows[:, -NUM_POSITION:]
        with _no_autocast(coords):  # torch's bf16 convolution of so few channels takes three times as long
            total = F.conv3d(torch.cat([coords, coords.square()], 1), position[:, :-1, None, None, None], position[:, -1])
        start = 0
        for level, feature in enumerate(features):
            scores = _map(feature, rows[:, start : start + feature.shape[1]])
            if level:
                scores = upsample(scores, size)
            total = total + scores
            start += self.widths[level]
        return total


def _map(x: Tensor, rows: Tensor) -> Tensor:
    kernel = rows[:, :, None, None, None]
    if x.dtype == torch.bfloat16 if x.is_meta else torch.is_autocast_enabled(x.device.type):
        return _full(F.conv3d(x, kernel))
    return pointwise(_full(x), kernel)  # on channels-last maps a matrix product: torch's convolution is slow for few rows


def _full(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _no_autocast(x: Tensor) -> AbstractContextManager[object]:
    # on the meta device a mode of torch functions imitates autocast (engine/memory.py)
    return torch._C.DisableTorchFunction() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, K, x, y, z) at (B, K, *size): ``F.interpolate`` in trilinear mode with ``align_corners=False``.

    One matrix product an axis, the last axis first. On a CPU that takes a fifth of torch's time, and its gradient a third.
    """
    if torch.compiler.is_exporting():  # sizes are symbols there
        return F.interpolate(x, size=list(size), mode="trilinear", align_corners=False)
    *_, depth = size
    weights = [_linear_weights(old, new) for old, new in zip(x.shape[2:], size, strict=True)]
    ways = [torch.from_numpy(found).to(x.device, x.dtype) for found in weights]
    with _no_autocast(x):
        planes = ways[1] @ (x @ ways[2].T)
        return (ways[0] @ planes.flatten(3)).unflatten(3, (-1, depth))


@lru_cache(maxsize=256)
def _linear_weights(old: int, new: int) -> np.ndarray:
    """Return the weights (new, old) float64 of ``old`` voxels along an axis in ``new`` ones of the same extent.

    No tensor: one that was made in inference mode could not be used for training later.
    """
    weights = np.zeros((new, old))
    for row in range(new):
        place = min(max((row + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        first = int(place)
        weights[row, first] += 1 - (place - first)
        weights[row, min(first + 1, old - 1)] += place - first
    return weights


class SegmentationNet(nn.Module):
    """Stem, body and head with the parameters of one task.

    Names give the groups: ``task.*`` belongs to the task, ``body.alphas.*`` to the architecture, the rest are weights.
    ``widths`` are the widths of stem and head, where the body has fewer levels or channels than in training.
    """

    def __init__(self, body: Body, num_channels: int = 1, num_organs: int = 1, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        # in the place of a stem: both have width, start and forward
        mix = cast(Stem, ChannelMix(body.in_width)) if body.takes_images else None
        self.stem: Stem = mix or Stem((widths or body.widths)[0], body.dims)
        self.body = body
        self.head = Head(body.widths if widths is None else widths)
        self.task = nn.ParameterDict()
        self.start_task(num_channels, num_organs)

    def start_task(self, num_channels: int, num_organs: int) -> None:
        """Set the task's parameters to their start: equal channels (1/C), head offsets of zero."""
        device = self.head.background.device
        self.task["channels"] = nn.Parameter(self.stem.start(num_channels).to(device))
        self.task["rows"] = nn.Parameter(torch.zeros(num_organs + 1, self.head.size, device=device))

    def with_body(self, body: Any) -> SegmentationNet:
        """Return a network with another body that shares this one's stem, head and task parameters.

        The body may be a part of this one's: narrower or shallower.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other._modules["body"] = body
        return other

    @property
    def num_organs(self) -> int:
        return self.task["rows"].shape[0] - 1

    def features(self, images: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the decoder features of ``images`` (B, C, X, Y, Z), finest first."""
        found, width = self.stem(images, self.task["channels"]), self.body.in_width
        return self.body(found if found.shape[1] == width else found[:, :width], strides)

    def forward(self, images: Tensor, coords: Tensor, strides: Sequence[Sequence[int]]) -> Tensor:
        """Return logits (B, K + 1, X, Y, Z) of ``images`` (B, C, X, Y, Z) at ``coords`` (B, 3, X, Y, Z)."""
        return self.head(self.features(images, strides), coords, self.task["rows"])

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the meta-learned weights by name."""
        return {n: p for n, p in self.named_parameters() if not n.startswith(("task.", "body.alphas."))}

    def alphas(self) -> dict[str, nn.Parameter]:
        """Return the architecture parameters by name."""
        return {n: p for n, p in self.named_parameters() if n.startswith("body.alphas.")}

    def task_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the task: they start with it and are never averaged."""
        return {n: p for n, p in self.named_parameters() if n.startswith("task.")}


def sample_features(features: Sequence[Tensor], coords: Tensor, voxels: Tensor, size: Sequence[int]) -> Tensor:
    """Return the head's features (n, F) float32 of one scan (batch entry) at integer ``voxels`` (n, 3) of a grid of ``size``.

    ``features`` are (1, C_l, X_l, Y_l, Z_l); they are read where trilinear upsampling (align_corners=False) would put them.
    """
    scale = torch.tensor([2.0 / n for n in size], device=voxels.device)
    points = (voxels.float() + 0.5) * scale - 1.0
    grid = points.flip(-1)[None, :, None, None, :]  # grid_sample wants the last axis first
    columns = [
        F.grid_sample(f, grid.to(f.dtype), mode="bilinear", padding_mode="border", align_corners=False)[0, :, :, 0, 0].T
        for f in map(_full, features)
    ]
    x, y, z = voxels.T
    position = coords[0][:, x, y, z].T
    return torch.cat([*columns, position, position.square(), torch.ones_like(position[:, :1])], 1)
