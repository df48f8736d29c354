"""V-NAS (Zhu et al. 2019, arXiv 1906.02817): a 2D, 3D or pseudo-3D convolution for each block of encoder and decoder.

There is no code, and the paper could not be opened here. As others describe it: bottleneck blocks (3, 4, 6, 3) in the encoder, a block at
each level of the decoder, three options a block, pyramid volumetric pooling as in AH-Net. From memory, not confirmed: a norm and a ReLU
after each operation. Our own reading: stem and pooling as in a ResNet, bottleneck widths 64 to 512 times 4, decoder widths 64 to 256,
a block at the stem's size, instance norm, sums at skips. Numbers of this native form are therefore not the paper's.
The house form has our norms, stem and head, the plan's strides, one block a level unless ``blocks`` says more, and bottlenecks of half the
width. In 2D one option is left: nothing is searched. The networks that V-NAS found could not be read: none is published here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from ..base import Picks, Row
from ..native import FormSettings
from ..registry import register_space
from .body import PARTS, VNASBody

EXPANSION = 4  #: of native bottlenecks


class VNASSettings(FormSettings):
    """Residual blocks down, blocks with a skip up."""

    name: str = "vnas"
    blocks: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(
        default=(), max_length=8
    )  #: encoder blocks by level, the last value serves deeper levels too; empty: 1 in house, (3, 4, 6, 3) in native form
    pools: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(
        default=(), max_length=8
    )  #: voxels of the pyramid's pools in the plane; empty: (16, 8, 4) in house, (64, 32, 16, 8) in native form

    @property
    def counts(self) -> tuple[int, ...]:
        """Encoder blocks of each level, finest first."""
        given = self.blocks or ((1,) if self.form == "house" else (3, 4, 6, 3))
        return tuple(given[min(level, len(given) - 1)] for level in range(self.levels))

    @property
    def pool_sizes(self) -> tuple[int, ...]:
        """Voxels of the pyramid's pools, without duplicates."""
        return tuple(dict.fromkeys(self.pools or ((16, 8, 4) if self.form == "house" else (64, 32, 16, 8))))

    @property
    def inside(self) -> tuple[int, ...]:
        """Channels of the searched operation of each encoder level."""
        found = super().widths
        return found if self.form == "native" else tuple(max(1, width // 2) for width in found)

    @property
    def outside(self) -> tuple[int, ...]:
        """Channels of the output of each encoder level."""
        found = super().widths
        return tuple(EXPANSION * width for width in found) if self.form == "native" else found

    @property
    def up_widths(self) -> tuple[int, ...]:
        """Channels of the decoder's blocks by level; those of the coarsest level are not used."""
        return super().widths

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature, finest first; a native network has one: the last block's, and one channel a pool."""
        found = super().widths
        return (self.base_width + len(self.pool_sizes),) if self.form == "native" else found


@register_space(
    "vnas",
    settings=VNASSettings,
    source="Zhu et al. 2019, arXiv 1906.02817 (no code; parts from memory)",
    refuses="a search in 2D: one option is left there",
)
class VNAS:
    """Encoder and decoder blocks with a 2D, 3D or pseudo-3D convolution each, and pyramid volumetric pooling."""

    def __init__(self, settings: VNASSettings) -> None:
        self.settings = settings
        s = settings
        names = [f"down{level}_{number}" for level, count in enumerate(s.counts) for number in range(count)]
        names += [f"up{level}" for level in range(s.levels - 2, -1, -1)]
        if s.form == "native":
            names.append("up_stem")
        self._rows = {name: Row(tuple(PARTS)) for name in names} if s.dims == 3 else {}

    def rows(self) -> Mapping[str, Row]:
        """Return one row a block: ``down0_0``, ..., ``up0``."""
        return self._rows

    def canonical(self, picks: Picks) -> dict[str, int]:
        """Return ``picks``: each row decides something in every network."""
        return {name: picks.get(name, 0) for name in self._rows}

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> VNASBody:
        """Return the supernet, or the network of ``picks``: one operation a block."""
        return VNASBody(self, None if picks is None else self.canonical(picks), generator)
