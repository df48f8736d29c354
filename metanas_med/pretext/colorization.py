"""``colorization``: recover the original intensities, as UnNAS (Liu et al. 2020, section 3.1) recovers colours.

A random non-monotone curve changes the intensities: different tissues may look alike and must be distinguished by shape and
context, like the colours of a grey photograph. Each channel has its own curve. Labels: 0 in air, else the bin of the original
intensity of one channel, by quantiles of the scan's own content.
"""

from __future__ import annotations

import numpy as np
import torch

from ..data.patches import Volume
from .base import Scan
from .intensity import Restoration, folding_curve
from .registry import register_pretext


@register_pretext("colorization", source="UnNAS, Liu et al. 2020, arXiv 2003.12056, section 3.1")
class Colorization(Restoration):
    """Crops after a non-monotone curve; the label is the bin of the original intensity."""

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a crop with a different curve for each channel, and the bin of the original intensity of each content voxel."""
        image, content, bins = self.crop(scan, generator)
        curved = np.stack([folding_curve(channel, content, generator) for channel in image])
        return Volume(scan.name, torch.from_numpy(curved), torch.from_numpy(np.where(content, bins, np.uint8(0))))
