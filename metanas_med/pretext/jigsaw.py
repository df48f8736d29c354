"""``jigsaw``: find the original place of each block (Noroozi & Favaro 2016, arXiv 1603.09246).

In volumes this is Rubik's cube (Zhuang et al. 2019, arXiv 1910.02241). A crop is cut into 2 x 2 x 2 blocks (2 x 2 x 1 in flat
tasks), which are permuted. The label of a voxel is the original place of its block. All classes occur in every volume and
every voxel has to predict its own, so the decoder's alphas have a gradient. An episode draws as many permutations as there
are blocks, at the largest Hamming distance: no two agree anywhere, so a place alone does not determine its block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch

from ..data.patches import Volume
from ..data.plan import Triple
from .base import CROP_CONTENT, LEAST, Frame, Scan, box, draw_crop
from .registry import register_pretext
from .settings import PretextSettings

#: share of a block's side that is removed, at random ends: structures that continue across a cut would reveal neighbours
GAP = 0.2


@dataclass(frozen=True)
class Cut:
    """How one scan becomes a puzzle: cell i shows the block from ``places[i]``, and its tile starts at ``offsets[i]`` in it."""

    start: Triple
    places: tuple[int, ...]
    offsets: tuple[Triple, ...]


@lru_cache
def _every(number: int) -> np.ndarray:
    """Return all permutations (number!, number) int8."""
    return np.array(list(permutations(range(number))), dtype=np.int8)


def choose_permutations(number: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return ``count`` permutations (count, number) of ``number`` blocks, chosen greedily for a large least Hamming distance.

    Noroozi & Favaro 2016, algorithm 1, with ties broken at random. Up to ``number`` permutations differ everywhere, because a
    Latin rectangle can always be extended. Cost: 9 ms for eight of 8!.
    """
    every = _every(number)
    chosen = [int(generator.integers(len(every)))]
    least = (every != every[chosen[0]]).sum(1)
    while len(chosen) < count:
        best = np.flatnonzero(least == least.max())
        chosen.append(int(best[int(generator.integers(len(best)))]))
        least = np.minimum(least, (every != every[chosen[-1]]).sum(1))
    return every[chosen].astype(np.int64)


@register_pretext("jigsaw", source="Noroozi and Favaro 2016, arXiv 1603.09246")
class Jigsaw:
    """Crops with permuted blocks; the label is the original place of a block."""

    def __init__(
        self, settings: PretextSettings, frame: Frame, generator: np.random.Generator, gap: float = GAP, normalise: bool = True
    ) -> None:
        self.grid: Triple = (2, 2, 1) if frame.flat else (2, 2, 2)
        self.margin = frame.margin
        # a view may be thinner than two blocks with gaps, although the scan is not
        least = (LEAST, LEAST, 1 if frame.flat else LEAST)
        free = [min(max(v, k), n - 2 * m) for v, k, n, m in zip(frame.view, least, frame.shape, self.margin, strict=True)]
        self.normalise = normalise  #: each block by itself; False only in tests, to show that brightness would reveal places
        self.block: Triple = tuple(n // g for n, g in zip(free, self.grid, strict=True))  # type: ignore[assignment]
        self.shape: Triple = tuple(b * g for b, g in zip(self.block, self.grid, strict=True))  # type: ignore[assignment]
        gaps = [max(1, round(gap * b)) if g > 1 and gap else 0 for b, g in zip(self.block, self.grid, strict=True)]
        self.tile: Triple = tuple(b - g for b, g in zip(self.block, gaps, strict=True))  # type: ignore[assignment]
        number = int(np.prod(self.grid))
        self.cells = [box(np.multiply(place, self.block).tolist(), self.block) for place in np.ndindex(*self.grid)]
        self.permutations = choose_permutations(number, number, generator)
        self.names = tuple("block " + " ".join(map(str, place)) for place in list(np.ndindex(*self.grid))[1:])

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a puzzle of ``scan`` and, for each voxel, the number of its block's original place."""
        start = draw_crop(scan, self.shape, generator, CROP_CONTENT, self.margin)
        places = self.permutations[int(generator.integers(len(self.permutations)))].tolist()
        free = np.subtract(self.block, self.tile) + 1
        offsets = tuple(tuple(int(i) for i in generator.integers(0, free)) for _ in self.cells)
        return self.paint(scan, Cut(start, tuple(places), offsets))  # type: ignore[arg-type]

    def paint(self, scan: Scan, cut: Cut) -> Volume:
        """Return the puzzle of a given cut: image (C, X, Y, Z), labels 0, 1, ...; between tiles the image is zero."""
        crop = scan.image[(slice(None), *box(cut.start, self.shape))]
        image = np.zeros_like(crop)
        label = np.empty(self.shape, dtype=np.uint8)
        for cell, place, offset in zip(self.cells, cut.places, cut.offsets, strict=True):
            tile = crop[(slice(None), *self.cells[place])][(slice(None), *box(offset, self.tile))]
            tile = standardised(tile) if self.normalise else tile
            image[(slice(None), *cell)][(slice(None), *box((0, 0, 0), self.tile))] = tile
            label[cell] = place
        return Volume(scan.name, torch.from_numpy(image), torch.from_numpy(label))


def standardised(tile: np.ndarray) -> np.ndarray:
    """Return ``tile`` (C, x, y, z) with mean 0 and standard deviation 1 per channel: brightness must not reveal its place."""
    mean = tile.mean((1, 2, 3), keepdims=True)
    return (tile - mean) / np.maximum(tile.std((1, 2, 3), keepdims=True), np.float32(1e-3))
