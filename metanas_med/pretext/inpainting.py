"""``inpainting``: recover what masks hide (Context encoders, Pathak et al. 2016, arXiv 1604.07379), as a dense labelling.

Blocks around voxels of the content are replaced by noise, at the same places in all channels. Labels: 0 where the scan is
visible, else the bin of the hidden intensity of one channel, by quantiles of the scan's own content.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.patches import Volume
from ..data.plan import Triple
from .base import Scan, box
from .intensity import Restoration
from .registry import register_pretext

#: minimum share of hidden voxels, and the maximum number of blocks to reach it
HIDDEN, MOST_BLOCKS = 0.25, 16


@register_pretext("inpainting", source="Pathak et al. 2016, arXiv 1604.07379")
class Inpainting(Restoration):
    """Crops with hidden blocks; the label is the bin of the hidden intensity."""

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a crop with blocks of noise and, for each hidden voxel, the bin of its original intensity."""
        image, content, bins = self.crop(scan, generator)
        hidden = draw_mask(content, generator, self.flat)
        image[:, hidden] = noise_like(image, int(hidden.sum()), generator)
        return Volume(scan.name, torch.from_numpy(image), torch.from_numpy(np.where(hidden, bins, np.uint8(0))))


def draw_mask(content: np.ndarray, generator: np.random.Generator, flat: bool) -> np.ndarray:
    """Return a mask (X, Y, Z) of blocks around voxels of ``content``, each 1/6 to 1/3 of the crop along each axis.

    In flat tasks blocks extend through all slices, because neighbouring slices would show what is hidden.
    """
    shape, places = content.shape, np.flatnonzero(content)
    mask = np.zeros(shape, dtype=bool)
    for _ in range(MOST_BLOCKS):
        size = draw_size(shape, generator, flat)
        middle = np.unravel_index(places[int(generator.integers(len(places)))], shape)
        start = [int(np.clip(int(m) - s // 2, 0, n - s)) for m, s, n in zip(middle, size, shape, strict=True)]
        mask[box(start, size)] = True
        if mask.mean() >= HIDDEN:
            break
    return mask


def draw_size(shape: Sequence[int], generator: np.random.Generator, flat: bool) -> Triple:
    """Return the size of a block in voxels: 1/6 to 1/3 of ``shape`` along each axis; in flat tasks all of the last axis."""
    x, y, z = (max(1, round(n * float(generator.uniform(1 / 6, 1 / 3)))) for n in shape)
    return x, y, (shape[2] if flat else z)


def noise_like(image: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Return normal noise (C, number) with the mean and standard deviation of each channel of ``image`` (C, X, Y, Z)."""
    mean, spread = image.mean((1, 2, 3))[:, None], image.std((1, 2, 3))[:, None]
    return mean + spread * generator.standard_normal((len(image), number), dtype=np.float32)
