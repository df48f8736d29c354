"""The settings of the space of DiNTS."""

from __future__ import annotations

from pydantic import Field

from ..native import FormSettings


class DintsSettings(FormSettings):
    """A grid of blocks and levels. House: widths as in every space. Native: 32 channels at full resolution, doubled at each level."""

    name: str = "dints"
    blocks: int = Field(default=0, ge=0, le=64)  #: blocks in a row; 0: 4 in the house form, 12 in the native one, as published
    levels: int = Field(default=4, ge=1, le=6)  #: levels of the grid; native grids start at half the image's resolution
    channel_mul: float = Field(default=1.0, gt=0, le=8)  #: native form: factor of all widths

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return self.blocks or (12 if self.form == "native" else 4)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature, finest first; a native network returns one, of full resolution."""
        return self.native_widths[:1] if self.form == "native" else super().widths

    @property
    def native_widths(self) -> tuple[int, ...]:
        """Channels at full resolution and at each level of the native grid (L + 1 numbers)."""
        return tuple(max(1, int(32 * 2**level * self.channel_mul)) for level in range(self.levels + 1))

    @property
    def grid_widths(self) -> tuple[int, ...]:
        """Channels of each level of the grid, finest first."""
        return self.native_widths[1:] if self.form == "native" else self.widths
