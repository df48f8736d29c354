"""The settings of the two spaces of Auto-nnU-Net."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..blocks.instance import NAMES
from ..native import FormSettings

Blocks = tuple[Annotated[int, Field(ge=1, le=32)], ...]
Norm = Literal["instance", "batch"]
Activation = Literal["leaky_relu", "relu", "elu", "gelu", "prelu"]

#: of nnU-Net's plans: residual blocks of a stage of ResEncM; deeper stages have as many as the last
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6)
#: of nnU-Net's plans: convolutions of a stage of the plain encoder, of a stage of its decoder, and of ResEncM's decoder
PLAIN_CONVS, DECODER_CONVS, RESIDUAL_DECODER_CONVS = 2, 2, 1


class StructureSettings(FormSettings):
    """What both spaces share; ``base_width`` and ``max_width`` are those of the widest network."""

    base_width: int = Field(default=16, ge=1, le=512)  #: channels at the finest stage, doubled at each stage
    max_width: int = Field(default=64, ge=1, le=2048)  #: most channels of any stage
    residual_blocks: Blocks = Field(
        default=RESIDUAL_BLOCKS, min_length=1, max_length=16
    )  #: default residual blocks by stage; the last value serves deeper stages too
    activations: tuple[Activation, ...] = Field(default=NAMES, min_length=1)  #: on offer; the first is the supernet's own
    norms: tuple[Norm, ...] = Field(
        default=("instance",), min_length=1
    )  #: on offer; the papers' spaces have instance and batch; batch needs the native form and training code of your own

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage, finest first."""
        return super().widths

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature, finest first; a native network has none of the coarsest stage."""
        return self.stage_widths[:-1] if self.form == "native" else self.stage_widths

    @model_validator(mode="after")
    def _can_be_built(self) -> StructureSettings:
        if self.form == "house" and "batch" in self.norms:
            raise ValueError(
                "norms: batch norm makes a prediction depend on the other samples of its batch; the house form has instance norm"
                " alone. Remove batch, or set form: native"
            )
        if self.form == "native" and self.levels < 2:
            raise ValueError(
                "levels: a native nnU-Net has a head at each stage of its decoder and needs 2 stages and more, found 1"
            )
        return self

    def residual_at(self, stage: int) -> int:
        """Return the default number of residual blocks of a stage."""
        return self.residual_blocks[min(stage, len(self.residual_blocks) - 1)]


class AutoNNUNetSettings(StructureSettings):
    """The largest network of Auto-nnU-Net's NAS space: all others are parts of it."""

    name: str = "auto_nnunet"
    encoders: tuple[Literal["residual", "plain"], ...] = Field(default=("residual", "plain"), min_length=1)  #: on offer
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field(
        default=(2.0, 1.5, 1.0, 0.5), min_length=1
    )  #: factors of all numbers of blocks, the largest first
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0, 0.75, 0.5, 0.25), min_length=1
    )  #: widths and caps on offer, as shares of ``base_width`` and ``max_width``
    dropouts: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        default=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5), min_length=1
    )  #: probabilities that a channel is left out in training; the first is the supernet's own

    @model_validator(mode="after")
    def _starts_with_the_largest(self) -> AutoNNUNetSettings:
        for name in ("scales", "shares"):
            found = getattr(self, name)
            if list(found) != sorted(set(found), reverse=True):
                raise ValueError(f"{name}: expected different values, the largest first, found {list(found)}")
        if self.encoders == ("plain", "residual"):
            raise ValueError("encoders: expected the residual one first: the plain encoder's convolutions are part of it")
        return self


class AutoNNUNetGrammarSettings(StructureSettings):
    """Auto-nnU-Net's hierarchical space: the words of a grammar over stages and blocks."""

    name: str = "auto_nnunet_grammar"
    s_max: int = Field(default=2, ge=1, le=4)  #: most blocks of a stage, as a multiple of the default
    dropout: float = Field(default=0.1, ge=0, lt=1)  #: probability of a side that has dropout; no choice of the grammar
    fixed: tuple[tuple[str, str], ...] = ()  #: rows that are no longer chosen, and their options

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage of the deepest network, finest first."""
        return super().stage_widths[: int(dict(self.fixed).get("stages", self.levels))]
