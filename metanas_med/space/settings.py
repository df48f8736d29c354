"""The settings that every search space has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..config.section import Section


class SpaceSettings(Section):
    """The size of the network. Each search space adds its own settings in a class of its own."""

    name: str = ""  #: a registered search space
    dims: Literal[2, 3] = 3  #: 2: slices across the coarsest axis, restacked; 3: volumes
    base_width: int = Field(default=8, ge=1, le=512)  #: channels at the finest level, doubled at each level
    max_width: int = Field(default=48, ge=1, le=2048)  #: most channels of any level
    levels: int = Field(default=4, ge=1, le=8)  #: resolutions, the full one included

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(min(self.base_width * 2**level, self.max_width) for level in range(self.levels))
