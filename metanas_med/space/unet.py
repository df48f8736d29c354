"""A plain U-Net behind the same door: nothing is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Body, Picks, Row, fit_strides
from .blocks.norm import Norm
from .blocks.operations import Candidate, Source, build_candidate, fold, unfold
from .cost import supernet_multiply_adds
from .registry import register_space
from .settings import SpaceSettings


class UNetSettings(SpaceSettings):
    """A plain U-Net."""

    name: str = "unet"


class UNetFixed(Body):
    """Two bias-free convolutions (3x3x3, in 2D 3x3x1), each with instance norm and leaky ReLU, at every level, down and up."""

    def __init__(self, space: UNet, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        super().__init__(space, picks)
        self.convs, self.norms = nn.ModuleDict(), nn.ModuleDict()
        widths = self.widths
        for level, width in enumerate(widths):
            self._add(f"down{level}_0", widths[max(level - 1, 0)], width, generator)
            self._add(f"down{level}_1", width, width, generator)
        for level in range(len(widths) - 2, -1, -1):
            self.convs[f"project{level}"] = build_candidate("conv111", widths[level + 1], widths[level], self.dims, generator)
            self._add(f"up{level}_0", 2 * widths[level], widths[level], generator)
            self._add(f"up{level}_1", widths[level], widths[level], generator)

    def _add(self, name: str, cin: int, cout: int, generator: torch.Generator | None) -> None:
        self.convs[name] = build_candidate("conv331" if self.dims == 2 else "conv333", cin, cout, self.dims, generator)
        self.norms[name] = Norm(cout)

    def _block(self, name: str, source: Source) -> Tensor:
        for part in (f"{name}_0", f"{name}_1"):
            source = Source(cast(Norm, self.norms[part])(cast(Candidate, self.convs[part])(source)))
        return source.x

    def decoder(self) -> frozenset[str]:
        """Return the names of the weights of the way up, the projections included."""
        return frozenset(n for n in self.weights() if n.startswith(("convs.up", "norms.up", "convs.project")))

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l)."""
        steps = fit_strides(len(self.widths), self.dims, strides)
        batch = x.shape[0]
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        encoded: list[Tensor] = []
        for level in range(len(self.widths)):
            x = self._block(f"down{level}", Source(x, steps[level - 1] if level else (1, 1, 1)))
            encoded.append(x)
        features = [x]
        for level in range(len(self.widths) - 2, -1, -1):
            low = cast(Candidate, self.convs[f"project{level}"])(Source(x))
            high = F.interpolate(low, size=encoded[level].shape[2:], mode="nearest")
            x = self._block(f"up{level}", Source(torch.cat([encoded[level], high], 1)))
            features.append(x)
        if self.dims == 2:
            features = [unfold(f, batch) for f in features]
        return features[::-1]


@register_space(
    "unet", settings=UNetSettings, source="Ronneberger et al. 2015, arXiv 1505.04597", refuses="a search: it has no alphas"
)
class UNet:
    """A plain U-Net of the settings' widths: nothing is searched."""

    def __init__(self, settings: UNetSettings) -> None:
        self.settings = settings

    def rows(self) -> Mapping[str, Row]:
        """Return no rows."""
        return {}

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> UNetFixed:
        """Return the network; there is only one."""
        return UNetFixed(self, picks, generator)


def unet_of_cost(
    settings: SpaceSettings, target_multiply_adds: float, shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> UNetSettings:
    """Return the settings of the plain U-Net whose multiply-adds on ``shape`` are nearest to the target.

    Levels and the proportion of ``max_width`` to ``base_width`` are those of ``settings``; the base width is searched, so the cost
    comes as near as one channel allows. Raises ConfigError where even one channel costs more than twice the target.
    """
    share = settings.max_width / settings.base_width

    def at(width: int) -> tuple[float, UNetSettings]:
        widest = max(width, round(share * width))
        own = UNetSettings(dims=settings.dims, base_width=width, max_width=widest, levels=settings.levels)
        return abs(supernet_multiply_adds(own, shape, strides) - target_multiply_adds), own

    found = min((at(width) for width in range(1, 4 * settings.base_width + 1)), key=lambda pair: pair[0])
    if found[0] > target_multiply_adds:
        raise ConfigError(f"no U-Net of {settings.levels} levels costs about {target_multiply_adds:.3g} multiply-adds")
    return found[1]
