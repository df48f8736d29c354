"""A plain U-Net behind the same door: nothing is searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import Norm
from .operations import Candidate, Source, build_candidate, fold, unfold
from .plan import fit_strides
from .registry import register_space
from .settings import SpaceSettings
from .supernet import Body


class UNetSettings(SpaceSettings):
    """A plain U-Net."""

    name: str = "unet"


@register_space("unet", settings=UNetSettings)
class UNet(Body):
    """Two bias-free convolutions (3x3x3, in 2D 3x3x1), each with instance norm and leaky ReLU, at every level, down and up."""

    def __init__(self, settings: UNetSettings, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.dims, self.widths = settings.dims, settings.widths
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
