"""``random-labels``: the control task, with the mosaics of ``rotation`` but upright tiles and random classes.

Tiles, seams, number of classes and loss are those of ``rotation`` (and close to those of ``jigsaw``); only labels do not
depend on the image. So any gain for an architecture or its weights comes from training steps on scans, not from what labels
teach. Classes are fixed for a volume, hence within an episode: a network can only memorise them (Zhang et al. 2017, arXiv
1611.03530).
"""

from __future__ import annotations

import numpy as np
import torch

from ..data.patches import Volume
from .base import Frame, Scan, box
from .mosaic import Mosaic
from .registry import register_pretext
from .settings import PretextSettings


@register_pretext("random-labels", source="Zhang et al. 2017, arXiv 1611.03530")
class RandomLabels:
    """Mosaics of upright tiles with random classes; each class occurs in at least one tile."""

    def __init__(self, settings: PretextSettings, frame: Frame, generator: np.random.Generator) -> None:
        self.mosaic = Mosaic(frame)
        self.shape = self.mosaic.shape
        self.num_kinds = min(settings.classes, len(self.mosaic.cells))
        self.names = tuple(f"class {k}" for k in range(1, self.num_kinds))

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a mosaic of ``scan`` and an unrelated label map."""
        tiles = self.mosaic.draw(scan, self.num_kinds, generator)
        cut = [scan.image[(slice(None), *box(t.start, self.mosaic.side))] for t in tiles]
        image, label = self.mosaic.lay(cut, [t.kind for t in tiles])
        return Volume(scan.name, torch.from_numpy(image), torch.from_numpy(label))
