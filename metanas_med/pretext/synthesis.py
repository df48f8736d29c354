"""``synthesis``: made-up volumes, two or more appearances of one label map.

Shapes are organs of labelled scans and random blobs, randomly turned, scaled, bent and pasted over a background of a few
regions, at times with air around it (anatomix, Dey et al., ICLR 2025, arXiv 2411.02372, section 3.1). Each appearance draws
the intensities of all regions independently (SynthSeg, Billot et al. 2023, arXiv 2107.09559). Only the shapes come from data,
so no scan is needed, and without label maps all shapes are random.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.cached import CachedDataset
from ..data.patches import Volume, coordinates
from ..data.plan import Intensity, Plan, Triple, stride_schedule
from ..data.settings import PlanSettings
from ..data.synthetic import draw_grid, smooth
from ..errors import DataError
from ..tasks.episode import Episode
from ..tasks.organ import OrganTask
from .appearance import draw_image
from .registry import episode_maker, register_pretext
from .settings import PretextSettings, SynthesisSettings
from .shapes import LEAST_VOXELS, Paste, ShapeLibrary, random_template

#: voxels that a shape must show after others were pasted over it
LEAST_SHOWN = 8
#: draws of a layout with too few shapes, until the background's regions become the shapes
_TRIES = 20


@dataclass(frozen=True)
class SynthesisSource:
    """Episodes of made-up volumes. Cost: 20 ms for two volumes of 20 000 voxels on one core; memory of the library: 64 MiB."""

    library: ShapeLibrary
    settings: SynthesisSettings
    plan: PlanSettings
    levels: int
    dims: int  #: 2: shapes are turned and bent within slices, and volumes have few thick slices

    def draw(self, generator: np.random.Generator) -> Episode:
        """Return a random episode without a query: volumes (1, X, Y, Z) of about ``plan.view_voxels`` voxels, one label map.

        The labels 1..K are in all volumes the same. It depends only on the generator, not on earlier draws.
        """
        g = torch.Generator().manual_seed(int(generator.integers(2**62)))
        shape, spacing = draw_grid(generator, self.plan.view_voxels, thick=1.0 if self.dims == 2 else 0.25)
        regions, labels = self._layout(generator, g, shape, spacing)
        volumes = tuple(
            Volume(f"appearance{k}", draw_image(regions, generator, g)[None], labels) for k in range(self.settings.appearances)
        )
        number = int(labels.max())
        task = OrganTask(
            "pretext-synthesis", tuple(f"shape {k}" for k in range(1, number + 1)), tuple((k,) for k in range(1, number + 1))
        )
        strides = stride_schedule(shape, spacing, self.levels, self.plan.thick_stride)
        return Episode(task, Plan((0, 1, 2), spacing, shape, strides, (Intensity("robust"),)), volumes, lasting=False)

    def _layout(
        self, generator: np.random.Generator, g: torch.Generator, shape: Triple, spacing: tuple[float, float, float]
    ) -> tuple[Tensor, Tensor]:
        """Return regions (X, Y, Z) int64 from 0, whose last K are the shapes, and labels (X, Y, Z) uint8 with 1..K."""
        s = self.settings
        paste = Paste(shape, spacing, s.bend, flat=spacing[2] > spacing[0])
        wanted = int(generator.integers(s.shapes[0], s.shapes[1] + 1))
        background = smooth(g, shape, generator.uniform(2, 6), int(generator.integers(1, 6))).argmax(0)
        air = _air(generator, g, shape) if generator.random() < s.envelope else None
        if air is not None:
            background[air] = background.max() + 1
        for _ in range(_TRIES):
            pasted = torch.zeros(shape, dtype=torch.int64)
            for k in range(1, wanted + 1):
                organ = self.library and generator.random() < s.organs
                template = self.library.draw(generator) if organ else random_template(generator, g)
                pasted[paste.mask(template, generator, g)] = k
            if air is not None:
                pasted[air] = 0
            labels = _numbered(pasted)
            if int(labels.max()) >= min(2, wanted):
                break
        else:
            labels = 1 + smooth(g, shape, 2, 2).argmax(0)
            labels = _numbered(torch.where(torch.rand(shape, generator=g) < 0.9, labels, 0))
        return torch.where(labels > 0, background.max() + labels, background), labels.to(torch.uint8)


def _air(generator: np.random.Generator, g: torch.Generator, shape: Triple) -> Tensor:
    """Return the mask (X, Y, Z) of what lies outside a bent ellipsoid around the centre."""
    radii = torch.tensor(generator.uniform(0.75, 1.15, 3), dtype=torch.float32)[:, None, None, None]
    return (coordinates(shape) / radii).square().sum(0) + 0.2 * smooth(g, shape, 3)[0] > 1


def _numbered(pasted: Tensor) -> Tensor:
    """Return ``pasted`` (X, Y, Z) without labels under ``LEAST_SHOWN`` voxels; the others are numbered from 1."""
    counts = torch.bincount(pasted.flatten())
    kept = counts >= LEAST_SHOWN
    kept[0] = False
    return torch.where(kept, kept.cumsum(0), 0)[pasted]


@register_pretext(
    "synthesis", source="anatomix, Dey et al. 2025, arXiv 2411.02372; SynthSeg, Billot et al. 2023, arXiv 2107.09559"
)
@episode_maker
def build_synthesis(
    datasets: Iterable[CachedDataset] | None, settings: PretextSettings, plan: PlanSettings, levels: int, dims: int
) -> SynthesisSource:
    """Made-up volumes: several appearances of one map of organs' shapes and random blobs; needs no scan.

    A share of the shapes comes from the label maps of ``datasets``; no voxel of a scan is read. With None, all shapes are
    random: no label may be read. Raises DataError if ``settings.synthesis.organs`` asks for organs and no label map has one.
    """
    own, given = settings.synthesis, list(datasets or ())
    library = ShapeLibrary(given if own.organs else ())
    if own.organs and not library and datasets is not None:
        scans = sum(len(d.cases) for d in given)
        found = f"{', '.join(d.name for d in given)} ({scans} scans)" if given else "no data set"
        raise DataError(
            f"pretext synthesis: found {found} without an organ of at least {LEAST_VOXELS} voxels in a label map, expected one for "
            "its shapes. Give labelled data sets, or --pretext.synthesis.organs 0 for random shapes only."
        )
    return SynthesisSource(library, own, plan, levels, dims)
