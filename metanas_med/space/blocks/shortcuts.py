"""Candidates without weights of their own: identity and pools."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..base import Triple
from .merge import Part
from .operations import Candidate, Source, padding_of, pointwise, register_candidate, scaled, times


class Shortcut(Candidate):
    """What has no weights of its own, but a 1x1x1 projection where the numbers of channels differ."""

    project: Tensor

    @staticmethod
    def shapes(cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        return {} if cin == cout else {"project": (cout, cin, 1, 1, 1)}

    def part(self) -> Part:
        return Part("constant", self.size, () if self.cin == self.cout else (self.project,))

    def finish(self, x: Tensor, scale: Tensor | None) -> Tensor:
        return times(x, scale) if self.cin == self.cout else pointwise(x, scaled(self.project, scale))


@register_candidate("identity", (1, 1, 1))
class Identity(Shortcut):
    """The centre voxel: a (strided) delta kernel."""

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return self.finish(source.thinned(), scale)


@register_candidate("avg_pool")
class AvgPool(Shortcut):
    """A box mean over zero-padded voxels (``count_include_pad``, or borders would differ from the merged kernel)."""

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        x, padding = source.x, padding_of(self.size)
        if any(
            extent < kernel for extent, kernel in zip(x.shape[2:], self.size, strict=True)
        ):  # torch refuses these, although padding makes them possible
            x, padding = F.pad(x, [extent for extent in padding[::-1] for _ in range(2)]), (0, 0, 0)
        return self.finish(F.avg_pool3d(x, self.size, source.stride, padding, count_include_pad=True), scale)


@register_candidate("max_pool")
class MaxPool(Shortcut):
    """The largest of the neighbours: not linear, never merged."""

    merges = False

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        return self.finish(source.max_pool(self.size), scale)
