"""``colorization``: what were the intensities? UnNAS' colorization (Liu et al. 2020, section 3.1) for scans, which have no colours.

A scan passes through a random curve that folds: tissues that were apart look alike, and which is which must be told by form and
surroundings, as the colours of a grey photograph must. Each channel has a curve of its own. Labels: 0 in air, else the bin of the original
intensity of one channel, by quantiles of the scan's own content.
"""

from __future__ import annotations

import numpy as np
import torch

from ..data.patches import Volume
from .base import Scan
from .intensity import Restoration, folding_curve
from .registry import register_pretext


@register_pretext("colorization")
class Colorization(Restoration):
    """Crops under a folding curve; the label is the bin of what was there."""

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a crop with another curve in each channel and, for each voxel of the content, the bin of its own intensity."""
        image, content, bins = self.crop(scan, generator)
        curved = np.stack([folding_curve(channel, content, generator) for channel in image])
        return Volume(scan.name, torch.from_numpy(curved), torch.from_numpy(np.where(content, bins, np.uint8(0))))
