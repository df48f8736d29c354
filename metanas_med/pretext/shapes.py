"""Shapes for made-up volumes: organs of labelled scans and random blobs, as small masks, and how a mask is pasted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..data.box import bounding_box
from ..data.cached import CachedDataset
from ..data.patches import coordinates
from ..data.synthetic import blob
from ..errors import DataError

#: voxels of a template along its longest side, at most
SIDE = 32
#: a template needs this many voxels in its scan: smaller ones have no shape
LEAST_VOXELS = 27
#: templates that a library keeps; each takes at most SIDE^3 bytes, so all together at most 64 MiB
KEPT = 2048
#: displacement beyond a template's box that is still computed, in halves of the box
_BEYOND = 1.5

ItemT = TypeVar("ItemT")


class ShapeLibrary:
    """The organs of labelled scans as templates: small bool masks (x, y, z) on a grid of cubes, cut to the organ's box.

    A template is drawn by group, data set, case and organ, each uniformly, so a large data set has no extra weight. A label
    map is read when one of its organs is drawn first; all its organs are kept then. Memory: at most 64 MiB (``KEPT``), and
    one label map while it is read. Cost: the first draw of a scan reads its label map; later draws cost nothing.
    """

    def __init__(self, datasets: Iterable[CachedDataset]) -> None:
        self.datasets = {d.name: d for d in datasets}
        #: group -> data set -> (case, its label values with enough voxels)
        self.places: dict[str, dict[str, list[tuple[str, tuple[int, ...]]]]] = {}
        for name, data in sorted(self.datasets.items()):
            for case in data.cases:
                values = tuple(
                    v for v in sorted(data.labels) if case.label_voxels.get(v, 0) >= LEAST_VOXELS and case.annotates([v])
                )
                if values:
                    self.places.setdefault(data.group, {}).setdefault(name, []).append((case.name, values))
        self._kept: OrderedDict[tuple[str, str, int], np.ndarray] = OrderedDict()

    def __bool__(self) -> bool:
        """Return whether there is any template."""
        return bool(self.places)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random template (x, y, z) bool; it depends only on the generator, not on earlier draws."""
        sets = self.places[_pick(sorted(self.places), generator)]
        name = _pick(sorted(sets), generator)
        case, values = _pick(sets[name], generator)
        return self._template(name, case, _pick(values, generator), values)

    def _template(self, name: str, case: str, value: int, values: Sequence[int]) -> np.ndarray:
        found = self._kept.pop((name, case, value), None)
        if found is None:
            data = self.datasets[name]
            spacing = next(c.spacing for c in data.cases if c.name == case)
            made = templates_of(data.label(case), spacing, values)
            if value not in made:
                raise DataError(
                    f"{data.path}: the label map of {case} has no voxel of {data.labels[value]}; prepare the data again"
                )
            self._kept.update({(name, case, v): mask for v, mask in made.items()})
            found = made[value]
        self._kept[(name, case, value)] = found  # the newest is last
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found


def _pick(items: Sequence[ItemT], generator: np.random.Generator) -> ItemT:
    return items[int(generator.integers(len(items)))]


def templates_of(label: np.ndarray, spacing: Sequence[float], values: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the templates by label value of a label map (X, Y, Z) with a spacing in mm; of ``values`` that it holds."""
    boxes = dict(enumerate(ndimage.find_objects(label), start=1))
    return {v: shrunk(label[box] == v, spacing) for v in values if (box := boxes.get(v)) is not None}


def shrunk(mask: np.ndarray, spacing: Sequence[float], side: int = SIDE) -> np.ndarray:
    """Return ``mask`` (X, Y, Z) on a grid of cubes with at most ``side`` voxels an axis, cut to its box; it keeps its volume.

    The voxels of which the organ takes the largest shares are kept, so that thin organs stay.
    """
    mask = mask[bounding_box(mask)]
    extent = np.multiply(mask.shape, spacing)
    step = max(float(extent.max()) / side, float(np.min(spacing)))
    size = [max(1, round(float(e) / step)) for e in extent]
    x, y, z = (min(n, s) for n, s in zip(mask.shape, size, strict=True))  # thick slices are interpolated after the mean
    pooled = F.adaptive_avg_pool3d(torch.from_numpy(mask.astype(np.float32))[None], (x, y, z))
    soft = F.interpolate(pooled[None], size=size, mode="trilinear", align_corners=False)[0, 0].numpy()
    number = min(max(1, round(float(soft.sum()))), int(np.count_nonzero(soft)))
    kept = soft >= np.partition(soft, soft.size - number, axis=None)[soft.size - number]
    return kept[bounding_box(kept)]


def random_template(generator: np.random.Generator, g: torch.Generator) -> np.ndarray:
    """Return a random blob, hollow at times, as a template (x, y, z) bool. Cost: 1 ms."""
    while True:  # seldom more than once: a blob is rarely empty
        mask = blob(generator, g, (24, 24, 24)).numpy()
        if np.count_nonzero(mask) >= LEAST_VOXELS:
            return mask[bounding_box(mask)]


class Paste:
    """Where a template lies in a volume: centre, size and turn are random, and its outline is bent.

    ``shape`` (X, Y, Z) voxels with ``spacing`` mm; ``flat`` keeps turns and bends within slices.
    """

    def __init__(self, shape: Sequence[int], spacing: Sequence[float], bend: float, flat: bool) -> None:
        self.half = torch.tensor(np.multiply(shape, spacing) / 2, dtype=torch.float32)  #: half of the volume, mm
        self.place = (coordinates(shape).flatten(1).T * self.half).contiguous()  #: (N, 3), mm from the centre
        self.shape, self.bend, self.flat = tuple(shape), bend, flat

    def mask(self, template: np.ndarray, generator: np.random.Generator, g: torch.Generator) -> Tensor:
        """Return the mask (X, Y, Z) of a pasted template; the geometric mean of its sides is 0.3 to 0.9 of the volume's."""
        side = 2 * float(self.half.prod()) ** (1 / 3)
        size = side * float(np.exp(generator.uniform(np.log(0.3), np.log(0.9))))
        box = torch.tensor(template.shape, dtype=torch.float32)
        half = box / box.prod() ** (1 / 3) * size / 2 * torch.exp(0.15 * torch.randn(3, generator=g))
        half *= min(1.0, 1.4 * side / (2 * float(half.max())))  # a long organ still fits
        centre = torch.tensor(generator.uniform(-0.75, 0.75, 3), dtype=torch.float32) * self.half
        bend = float(generator.uniform(0, self.bend))
        local = ((self.place - centre) @ self._turn(generator, g)) / half
        near = (local.abs() < _BEYOND).all(1).nonzero()[:, 0]
        local = local[near]
        cells = torch.randn((1, 3, 4, 4, 4), generator=g)
        moved = bend * _sample(cells, local / _BEYOND, "border")[0].T
        if self.flat:
            moved[:, 2] = 0
        inside = _sample(torch.from_numpy(template.astype(np.float32))[None, None], local + moved, "zeros")[0, 0] > 0.5
        mask = torch.zeros(len(self.place), dtype=torch.bool)
        mask[near] = inside
        return mask.view(self.shape)

    def _turn(self, generator: np.random.Generator, g: torch.Generator) -> Tensor:
        """Return a random orthogonal matrix (3, 3), a turn or a reflection; within slices if ``flat``."""
        if not self.flat:
            return torch.linalg.qr(torch.randn((3, 3), generator=g))[0]
        angle = float(generator.uniform(0, 2 * np.pi))
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        flip = float(generator.choice([-1.0, 1.0]))
        return torch.tensor([[cos, -sin * flip, 0.0], [sin, cos * flip, 0.0], [0.0, 0.0, 1.0]])


def _sample(values: Tensor, at: Tensor, padding: str) -> Tensor:
    """Return ``values`` (1, C, x, y, z) at the points (n, 3) in [-1, 1], linearly: (1, C, n)."""
    grid = at.flip(1)[None, :, None, None]  # grid_sample expects the last axis first
    return F.grid_sample(values, grid, mode="bilinear", padding_mode=padding, align_corners=False)[..., 0, 0]
