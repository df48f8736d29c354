"""``genesis``: restore a scan after four kinds of changes (Models Genesis, Zhou et al. 2019, arXiv 1908.06912, section 2.1).

The changes, in this order and with the paper's probabilities: a Bezier curve of the intensities (0.9), voxels shuffled within
small blocks (0.5), and painting (0.9). Painting hides blocks, or, with probability 0.8, everything except a few large blocks.
The original predicts intensities. Here labels are bins, so that the usual loss and head apply: 0 in air, else by quantiles of
the scan's own content, of one channel.
"""

from __future__ import annotations

import numpy as np
import torch

from ..data.patches import Volume
from .base import Scan, box
from .inpainting import draw_mask, noise_like
from .intensity import Restoration, bezier
from .registry import register_pretext

#: probabilities from the paper's code and text; OUT is the share of out-painting among paintings
CURVE, SHUFFLE, PAINT, OUT = 0.9, 0.5, 0.9, 0.8
#: share of a crop to shuffle, counting overlapping blocks twice; maximum number of blocks per crop
SHUFFLED, MOST_BLOCKS = 0.5, 400


@register_pretext("genesis", source="Zhou et al. 2019, arXiv 1908.06912, section 2.1")
class Genesis(Restoration):
    """Crops after curve, shuffling and painting; the label is the bin of the original intensity."""

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a changed crop and, for each voxel of the content, the bin of its original intensity."""
        image, content, bins = self.crop(scan, generator)
        if generator.random() < CURVE:
            image = np.stack([bezier(channel, generator) for channel in image])
        if generator.random() < SHUFFLE:
            shuffle_locally(image, generator, self.flat)
        if generator.random() < PAINT:
            outside = generator.random() < OUT
            hidden = outer_mask(image.shape[1:], generator, self.flat) if outside else draw_mask(content, generator, self.flat)
            image[:, hidden] = noise_like(image, int(hidden.sum()), generator)
        return Volume(scan.name, torch.from_numpy(image), torch.from_numpy(np.where(content, bins, np.uint8(0))))


def shuffle_locally(image: np.ndarray, generator: np.random.Generator, flat: bool) -> None:
    """Permute the voxels within small blocks of ``image`` (C, X, Y, Z) in place, in the same way for all channels.

    Along each axis, blocks have up to a tenth of the crop's size, or two voxels if that is more; in flat tasks they are one
    slice thick.
    """
    shape = image.shape[1:]
    most = [min(n, max(2, n // 10)) for n in shape]
    if flat:
        most[2] = 1
    done, wanted = 0, SHUFFLED * float(np.prod(shape))
    for _ in range(MOST_BLOCKS):
        size = [int(generator.integers(min(2, m), m + 1)) for m in most]
        where = (slice(None), *box([int(generator.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)], size))
        block = image[where].reshape(len(image), -1)
        image[where] = block[:, generator.permutation(block.shape[1])].reshape(image[where].shape)
        done += block.shape[1]
        if done >= wanted:
            break


def outer_mask(shape: tuple[int, ...], generator: np.random.Generator, flat: bool) -> np.ndarray:
    """Return a mask (X, Y, Z) of everything outside one to five blocks, each 3/7 to 4/7 of the crop along each axis."""
    mask = np.ones(shape, dtype=bool)
    for _ in range(int(generator.integers(1, 6))):
        size = [max(1, round(n * float(generator.uniform(3 / 7, 4 / 7)))) for n in shape]
        if flat:
            size[2] = shape[2]
        mask[box([int(generator.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)], size)] = False
    return mask
