"""Synthetic organ tasks: random label maps imaged with random contrasts, as an additional source of tasks.

Images are drawn from label maps with a random intensity per region (SynthSeg, Billot et al. 2023, arXiv 2107.09559, section
3.1). The label maps are random too, with a new deformation for each scan of a task (UniverSeg, Butoi et al. 2023, arXiv
2304.06131, section 4.2). The scans of a task share layout and contrast, so a network must learn to infer both from the
support.

Cost: 5 ms per scan of 20 000 voxels on one core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .patches import Volume, coordinates
from .plan import Triple

SpacingTriple = tuple[float, float, float]


def synthetic_scans(
    generator: np.random.Generator, number: int, view_voxels: int, max_organs: int = 3
) -> tuple[tuple[Volume, ...], int, SpacingTriple]:
    """Return ``number`` scans of a new task, its number of organs, and a spacing (mm) whose last axis may be coarse.

    A scan has about ``view_voxels`` voxels, one channel with about zero mean and unit scale, and every organ of the task.
    """
    g = torch.Generator().manual_seed(int(generator.integers(2**62)))
    shape, spacing = draw_grid(generator, view_voxels)
    regions, organs = _layout(generator, g, shape, max_organs)
    num_organs, num_regions = int(organs.max()), int(regions.max()) + 1
    contrast = _Contrast(generator, g, num_regions)
    bend, cells = generator.uniform(0.05, 0.25), int(generator.integers(3, 6))
    scans = []
    while len(scans) < number:
        labels = _deform(torch.stack([regions, organs]), g, bend, cells)
        if len(torch.unique(labels[1])) <= num_organs:  # an organ was pushed out of the scan
            bend *= 0.8
            continue
        scans.append(Volume(f"synthetic{len(scans)}", contrast.image(labels[0])[None], labels[1].to(torch.uint8)))
    return tuple(scans), num_organs, spacing


def draw_grid(generator: np.random.Generator, view_voxels: int, thick: float = 0.25) -> tuple[Triple, SpacingTriple]:
    """Return a random shape of about ``view_voxels`` voxels and its spacing (mm).

    With probability ``thick`` the volume has few slices, two to six times as thick as a voxel is wide.
    """
    sides = generator.uniform(0.7, 1.4, 3)
    coarse = 1.0
    if generator.random() < thick:  # few thick slices
        coarse = float(generator.uniform(2.0, 6.0))
        sides[2] /= coarse
    unit = (view_voxels / sides.prod()) ** (1 / 3)
    x, y, z = (max(6, round(float(s) * unit)) for s in sides)
    return (x, y, z), (1.0, 1.0, coarse)


def smooth(g: torch.Generator, shape: Sequence[int], cells: float, channels: int = 1) -> Tensor:
    """Return smooth noise (channels, X, Y, Z) with about ``cells`` independent values along the longest axis."""
    coarse = [max(2, round(cells * n / max(shape))) for n in shape]
    noise = torch.randn((1, channels, *coarse), generator=g)
    return F.interpolate(noise, size=tuple(shape), mode="trilinear", align_corners=True)[0]


def _layout(generator: np.random.Generator, g: torch.Generator, shape: Triple, max_organs: int) -> tuple[Tensor, Tensor]:
    """Return the task's regions (X, Y, Z) from 0 and organs (X, Y, Z) 0..K, int64; organs are blobs or some of the regions."""
    regions = smooth(g, shape, generator.uniform(3, 9), int(generator.integers(4, 15))).argmax(0)
    wanted = int(generator.integers(1, max_organs + 1))
    organs = torch.zeros(shape, dtype=torch.int64)
    if generator.random() < 0.6:
        for k in range(1, wanted + 1):
            organs[blob(generator, g, shape)] = k
    else:
        there = torch.unique(regions).numpy()  # at least one of them stays background
        for k, region in enumerate(generator.permutation(there)[: min(wanted, len(there) - 1)], start=1):
            organs[regions == int(region)] = k
    present = torch.unique(organs[organs > 0])
    if not len(present):
        organs[regions == regions.flatten()[0]] = 1
        present = torch.unique(organs[organs > 0])
    numbered = torch.zeros_like(organs)
    for k, value in enumerate(present.tolist(), start=1):
        numbered[organs == value] = k
    return torch.where(organs > 0, int(regions.max()) + organs, regions), numbered


def blob(generator: np.random.Generator, g: torch.Generator, shape: Triple) -> Tensor:
    """Return the mask of an irregular ellipsoid, hollow with probability 1/4."""
    place = coordinates(shape) - torch.tensor(generator.uniform(-0.5, 0.5, 3), dtype=torch.float32)[:, None, None, None]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    radii = torch.tensor(generator.uniform(0.12, 0.5, 3), dtype=torch.float32)
    squared = (torch.einsum("ij,jxyz->ixyz", turn, place) / radii[:, None, None, None]).square().sum(0)
    field = squared + 0.3 * smooth(g, shape, 6)[0]
    mask = field < 1
    if generator.random() < 0.25:
        mask &= field > float(generator.uniform(0.2, 0.5))
    return mask


def _deform(labels: Tensor, g: torch.Generator, bend: float, cells: int) -> Tensor:
    """Return label maps (M, X, Y, Z) after a smooth random displacement and a random affine map, with nearest-voxel sampling."""
    shape = labels.shape[1:]
    place = coordinates(shape)
    affine = torch.eye(3) + 0.08 * torch.randn(3, 3, generator=g)
    shift = 0.08 * torch.randn(3, generator=g)[:, None, None, None]
    moved = torch.einsum("ij,jxyz->ixyz", affine, place) + shift + bend * smooth(g, shape, cells, 3)
    grid = moved.flip(0).permute(1, 2, 3, 0)[None]  # grid_sample expects the last axis first
    return F.grid_sample(labels.float()[None], grid, mode="nearest", padding_mode="border", align_corners=False)[0].long()


class _Contrast:
    """How the scans of a task are imaged: a mean and a spread per region, texture, blur, bias field, noise."""

    def __init__(self, generator: np.random.Generator, g: torch.Generator, num_regions: int) -> None:
        self.g = g
        self.mean = torch.randn(num_regions, generator=g)
        self.spread = torch.rand(num_regions, generator=g) * float(generator.uniform(0, 0.5))
        self.jitter = float(generator.uniform(0, 0.3))  #: variation of the means between scans
        self.texture, self.cells = float(generator.uniform(0, 0.6)), float(generator.uniform(6, 20))
        self.blur, self.bias, self.noise = (float(generator.uniform(0, high)) for high in (0.9, 0.4, 0.3))

    def image(self, regions: Tensor) -> Tensor:
        """Return the image (X, Y, Z) of a region map, with zero median and unit scale."""
        g, shape = self.g, regions.shape
        mean = self.mean + self.jitter * torch.randn(len(self.mean), generator=g)
        image = mean[regions] + self.spread[regions] * torch.randn(shape, generator=g)
        image = image + self.texture * smooth(g, shape, self.cells)[0]
        if self.blur > 0.3:
            image = blurred(image, self.blur)
        image = image * (1 + self.bias * smooth(g, shape, 2)[0]) + self.noise * torch.randn(shape, generator=g)
        return (image - image.median()) / image.std().clamp(min=1e-3)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Return ``image`` (X, Y, Z) after a Gaussian of ``sigma`` voxels, truncated at one voxel, along each axis."""
    side = math.exp(-0.5 / sigma**2)
    kernel = torch.tensor([side, 1.0, side]) / (1 + 2 * side)
    out = image[None, None]
    for axis in range(3):
        size, pad = [1, 1, 1], [0] * 6
        size[axis] = 3
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 1
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel.view(1, 1, *size))
    return out[0, 0]


def recast(volumes: Sequence[Volume], generator: np.random.Generator, swap: bool) -> tuple[tuple[Volume, ...], bool]:
    """Return the scans of a task as another task: all get the same random intensity curve and the same flips.

    Also returns whether the first two axes were exchanged, which ``swap`` allows (if their spacing is the same). A task is
    defined by what its scans have in common, so the same change in all of them makes a new task.
    """
    curve = draw_curve(generator)
    axes = [axis for axis in range(3) if generator.random() < 0.5]
    swapped = swap and generator.random() < 0.5
    made = []
    for volume in volumes:
        image, label = curve(volume.image), volume.label
        if axes:
            image, label = image.flip([axis + 1 for axis in axes]), label.flip(axes)
        if swapped:
            image, label = image.transpose(1, 2), label.transpose(0, 1)
        made.append(replace(volume, image=image.contiguous(), label=label.contiguous()))
    return tuple(made), swapped


class Curve:
    """A piecewise linear map of intensities over [-3, 3], extrapolated with its last slopes."""

    def __init__(self, heights: Tensor) -> None:
        self.heights = heights

    def __call__(self, image: Tensor) -> Tensor:
        place = (image + 3) / 6 * (len(self.heights) - 1)
        index = place.floor().long().clamp(0, len(self.heights) - 2)
        share = place - index
        return self.heights[index] * (1 - share) + self.heights[index + 1] * share


def draw_curve(generator: np.random.Generator, knots: int = 7) -> Curve:
    """Return the identity (30 %), a monotone curve, rising or falling (50 %), or an arbitrary curve (20 %)."""
    kind = generator.random()
    if kind < 0.3:
        heights = np.linspace(-3, 3, knots)
    elif kind < 0.8:
        heights = np.cumsum(generator.uniform(0.15, 1.15, knots))
        heights = (heights - heights.mean()) / heights.std() * generator.choice([-1.0, 1.0])
    else:
        heights = generator.normal(size=knots)
    return Curve(torch.tensor(heights, dtype=torch.float32))
