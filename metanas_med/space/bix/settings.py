"""The settings of BiX-NAS."""

from __future__ import annotations

from pydantic import Field, model_validator

from ..native import FormSettings

#: channels of the native form: of every block, and of the stem's first two convolutions and the tail's last two
NATIVE_WIDTH, NATIVE_OUTER = 48, 32


class BixSettings(FormSettings):
    """An encoder-decoder that runs several times: which maps each block reads is searched.

    All levels have ``base_width`` channels (48 in the native form), because maps of every level are averaged; ``max_width`` is a
    cap. The native form has strides of 2 and is two-dimensional.
    """

    name: str = "bix"
    base_width: int = Field(default=16, ge=1, le=512)  #: channels of all levels in the house form
    iterations: int = Field(default=3, ge=1, le=8)  #: number of times that encoder and decoder run
    most_inputs: int = Field(default=5, ge=1, le=9)  #: most inputs of a block; the first phase of the paper's search keeps 3 of 5

    @property
    def width(self) -> int:
        """Channels of every block."""
        return NATIVE_WIDTH if self.form == "native" else min(self.base_width, self.max_width)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the features that a body returns, finest first; in the native form only the last one."""
        return (NATIVE_OUTER,) if self.form == "native" else (self.width,) * self.levels

    @model_validator(mode="after")
    def _native_is_flat(self) -> BixSettings:
        if self.form == "native" and self.dims != 2:
            raise ValueError("the native form of bix is two-dimensional: set space.dims 2, or space.form house")
        return self
