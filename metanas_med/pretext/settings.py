"""Settings of label-free tasks."""

from __future__ import annotations

from pydantic import Field, field_validator

from ..config import Section


class SynthesisSettings(Section):
    """Made-up volumes of the pretext ``synthesis``: several appearances of one map of shapes."""

    organs: float = Field(default=0.7, ge=0, le=1)  #: share of shapes from label maps of training sets; the others are random
    shapes: tuple[int, int] = (3, 8)  #: least and greatest number of shapes in a volume; some may be covered by others
    appearances: int = Field(default=2, ge=2, le=16)  #: volumes of an episode, of the same label map
    bend: float = Field(
        default=0.25, ge=0, le=1
    )  #: greatest spread of the displacements that bend a shape, in halves of its size
    envelope: float = Field(default=0.5, ge=0, le=1)  #: share of episodes with air around a body

    @field_validator("shapes")
    @classmethod
    def _not_empty(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 64:
            raise ValueError("expected two numbers of shapes from 1 to 64, the smaller one first")
        return value


class PretextSettings(Section):
    """Label-free tasks: episodes whose labels are made from unlabelled scans (docs/label_free.md)."""

    mix: float = Field(default=0.0, ge=0, le=1)  #: share of training episodes that are label-free; 1: no label is read at all
    names: tuple[str, ...] = ("colorization",)  #: registered pretexts; an episode draws one of them
    scans: int = Field(default=4, ge=1)  #: scans of an episode, each of another patient
    classes: int = Field(default=4, ge=2, le=8)  #: classes of an episode of rotation or random-labels, one a tile at most
    bins: int = Field(default=4, ge=2, le=16)  #: intensity bins of the restoring pretexts
    zoom: float = Field(default=0.5, gt=0, le=1)  #: least share of a scan's extent that a view shows along each axis
    lr: float = Field(default=1e-3, gt=0)  #: of weights in adapt --unlabelled, by a cosine to a hundredth
    alpha_lr: float = Field(default=0.02, ge=0)  #: of the architecture there; 0: alphas stay as they are
    steps: int = Field(default=60, ge=1)  #: gradient steps there, weights and alphas together
    synthesis: SynthesisSettings = SynthesisSettings()
