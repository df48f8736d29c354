"""Supervised dense contrastive learning: voxels of one label get similar features in all volumes, those of other labels others.

The loss is that of Khosla et al. 2020 (arXiv 2004.11362, equation 2, L_out). Its use for voxels at several decoder levels, under
two appearances of one label map, follows anatomix (Dey et al. 2025, arXiv 2411.02372). Features pass through a small projection
per level. The projections are part of the training, never of the network.

Cost per step with n = ``features.views`` x ``contrast.voxels``: n^2 similarities per level. At n = 1024 a level takes 20 ms on
one core and keeps 6 MiB until the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..config import Section
from ..space.network import SegmentationNet
from .observe import Episode

#: what the names of all parameters of projections begin with
PROJECTION = "projection/"


class ContrastSettings(Section):
    """Feature steps by a dense contrastive loss over labels."""

    temperature: float = Field(default=0.2, gt=0)  #: cosines are divided by it; a low one gives similar negatives more weight
    width: int = Field(default=32, ge=2)  #: hidden and output features of each level's projection
    voxels: int = Field(default=256, ge=4, le=4096)  #: voxels per patch, equally many for each label; cost grows by the square
    lr: float = Field(default=1e-3, gt=0)  #: learning rate of projections (Adam); it falls as features.lr does


def contrastive_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the mean supervised contrastive loss () of ``features`` (n, D) with ``labels`` (n,).

    Every sample is an anchor. Its positives are the other samples of its label, its negatives those of other labels. Samples
    without positives are no anchors, but negatives of others. Zero, with a graph, if there is no anchor or only one label.
    """
    labels = labels.to(features.device)
    same = labels[:, None] == labels[None]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = same & ~itself
    counts = positive.sum(1)
    anchors = counts > 0
    if bool(same.all()) or not bool(anchors.any()):
        return 0.0 * features.sum()
    unit = F.normalize(features, dim=1)
    scores = unit @ unit.T / temperature
    total = scores.masked_fill(itself, -torch.inf).logsumexp(1)
    attraction = (scores * positive).sum(1) / counts.clamp(min=1)
    return (total - attraction)[anchors].mean()


def similarity_bytes(num_voxels: int, levels: int) -> int:
    """Return about how many bytes the similarities of all pairs of voxels take until the backward pass, at all ``levels``."""
    return 5 * 4 * num_voxels**2 * levels


def projection_sizes(widths: Sequence[int], hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes, by name, of the two-layer projections of levels of ``widths``."""
    sizes: dict[str, tuple[int, ...]] = {}
    for level, width in enumerate(widths):
        for layer, size in (("first", width), ("second", hidden)):
            sizes |= {f"{PROJECTION}{level}/{layer}": (hidden, size), f"{PROJECTION}{level}/{layer}_bias": (hidden,)}
    return sizes


def start_projections(sizes: Mapping[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """Return initial values of ``sizes``: random matrices (He et al. 2015, arXiv 1502.01852, equation 10) and small biases.

    Biases are random, too: a voxel whose hidden features are all zero needs a direction, or its gradient has no bound.
    """
    scales = {name: (2 / size[1]) ** 0.5 if len(size) > 1 else 0.1 for name, size in sizes.items()}
    return {name: torch.randn(size, generator=generator) * scales[name] for name, size in sizes.items()}


def part_of(projections: Mapping[str, Tensor], widths: Sequence[int]) -> dict[str, Tensor]:
    """Return the projections of a network of ``widths``, whose levels have the leading channels of a wider one's."""
    sizes = {f"{PROJECTION}{level}/first": width for level, width in enumerate(widths)}
    return {name: value[:, : sizes[name]] if name in sizes else value for name, value in projections.items()}


def project(features: Tensor, projections: Mapping[str, Tensor], level: int) -> Tensor:
    """Return the projected ``features`` (n, hidden) of one ``level`` (n, C)."""
    first, first_bias, second, second_bias = (
        projections[f"{PROJECTION}{level}/{name}"] for name in ("first", "first_bias", "second", "second_bias")
    )
    return F.linear(F.relu(F.linear(features, first, first_bias)), second, second_bias)


def episode_contrast(net: SegmentationNet, seen: Episode, projections: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Return the contrastive loss of all sampled voxels of ``seen``, the mean over the decoder levels of ``net``.

    A voxel's position is not used: it would separate labels without any feature.
    """
    x, labels, _ = seen.part(slice(None))
    levels = x.split([*net.head.widths, x.shape[1] - sum(net.head.widths)], 1)[: len(seen.features)]
    losses = [contrastive_loss(project(part, projections, n), labels, temperature) for n, part in enumerate(levels)]
    return torch.stack(losses).mean()
