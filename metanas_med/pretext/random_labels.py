"""``random-labels``: the control. The mosaics of ``rotation`` with nothing turned, and classes that say nothing.

Tiles, seams, number of classes and loss are those of ``rotation`` (and near those of ``jigsaw``); only the tie between image and label is cut.
So what an architecture or its weights gain here, they gain from steps on scans, not from anything that a label could teach. A class is fixed for
a volume, hence within an episode: a network may learn it by heart (Zhang et al. 2017, arXiv 1611.03530), and nothing else.
"""

from __future__ import annotations

import numpy as np
import torch

from ..data.patches import Volume
from .base import Frame, Scan, box
from .mosaic import Mosaic
from .registry import register_pretext
from .settings import PretextSettings


@register_pretext("random-labels")
class RandomLabels:
    """Mosaics of upright tiles with classes drawn at random, each class in one tile at least."""

    def __init__(self, settings: PretextSettings, frame: Frame, generator: np.random.Generator) -> None:
        self.mosaic = Mosaic(frame)
        self.shape = self.mosaic.shape
        self.num_kinds = min(settings.classes, len(self.mosaic.cells))
        self.names = tuple(f"class {k}" for k in range(1, self.num_kinds))

    def volume(self, scan: Scan, generator: np.random.Generator) -> Volume:
        """Return a mosaic of ``scan`` and a label map that has nothing to do with it."""
        tiles = self.mosaic.draw(scan, self.num_kinds, generator)
        cut = [scan.image[(slice(None), *box(t.start, self.mosaic.side))] for t in tiles]
        image, label = self.mosaic.lay(cut, [t.kind for t in tiles])
        return Volume(scan.name, torch.from_numpy(image), torch.from_numpy(label))
