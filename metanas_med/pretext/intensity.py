"""Intensities of unlabelled scans: bins of a scan's own content, and curves that change them."""

from __future__ import annotations

import numpy as np

from ..data.plan import Triple
from .base import CROP_CONTENT, Frame, Scan, box, draw_crop, subsample
from .settings import PretextSettings


class Restoration:
    """Base of the restoring tasks: crops of the view's size, and bins of one channel, which all scans of an episode share."""

    def __init__(self, settings: PretextSettings, frame: Frame, generator: np.random.Generator) -> None:
        self.shape: Triple = frame.view
        self.flat = frame.flat
        self.num_bins = settings.bins
        self.channel = int(generator.integers(frame.num_channels))
        self.names = tuple(f"bin {k}" for k in range(1, self.num_bins + 1))

    def crop(self, scan: Scan, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a copy of a random crop (C, X, Y, Z), its content (X, Y, Z) and its bins (X, Y, Z) uint8 from 1.

        Raises TooLittleContent if the scan is nearly all air.
        """
        place = box(draw_crop(scan, self.shape, generator, CROP_CONTENT), self.shape)
        edges = bin_edges(scan.image[self.channel][scan.content], self.num_bins)
        image = scan.image[(slice(None), *place)].copy()
        return image, scan.content[place], bins_of(image[self.channel], edges)


def bin_edges(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Return the ``num_bins - 1`` quantiles that divide ``values`` (n,) into bins of equal counts."""
    return np.quantile(subsample(values), np.arange(1, num_bins) / num_bins).astype(np.float32)


def bins_of(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin of every value, uint8, from 1 to ``len(edges) + 1``; a value on an edge belongs to the upper bin."""
    return (np.searchsorted(edges, image, side="right") + 1).astype(np.uint8)


def bezier(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a channel (X, Y, Z) after a random monotone curve over its own range, rising or falling.

    A cubic Bezier curve with ends (0, 0), (1, 1) and two random control points, reversed half of the time (Models Genesis,
    Zhou et al. 2019, arXiv 1908.06912, section 2.1).
    """
    low, high = float(image.min()), float(image.max())
    if high <= low:
        return image.copy()
    inner = generator.random((2, 2))
    t = np.linspace(0, 1, 257)[:, None]
    points = 3 * (1 - t) ** 2 * t * inner[0] + 3 * (1 - t) * t**2 * inner[1] + t**3
    heights = points[:, 1] if generator.random() < 0.5 else 1 - points[:, 1]
    # a lookup table is ten times as fast as interpolating the curve at each voxel
    table = np.interp(np.linspace(0, 1, 4097), points[:, 0], heights).astype(np.float32)
    place = np.rint((image - low) * (4096 / (high - low))).astype(np.int32)
    return table[place] * np.float32(high - low) + np.float32(low)


def folding_curve(image: np.ndarray, content: np.ndarray, generator: np.random.Generator, knots: int = 6) -> np.ndarray:
    """Return a channel (X, Y, Z) after a random, non-monotone, piecewise linear curve, with mean 0 and standard deviation 1.

    Different tissues may then share an intensity, and only their surroundings distinguish them. A monotone curve could be
    inverted for each voxel alone.
    """
    low, high = np.quantile(subsample(image[content]), [0.005, 0.995])
    heights = generator.normal(size=knots)
    while not (np.diff(heights).min() < -0.5 and np.diff(heights).max() > 0.5):
        heights = generator.normal(size=knots)
    place = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) * (knots - 1)
    curved = np.interp(place, np.arange(knots), heights).astype(np.float32)
    return (curved - curved.mean()) / max(float(curved.std()), 1e-3)
