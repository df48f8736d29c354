"""Settings of label-free tasks."""

from __future__ import annotations

from pydantic import Field

from ..config import Section


class PretextSettings(Section):
    """Label-free tasks: episodes whose labels are made from unlabelled scans (docs/train.md)."""

    mix: float = Field(default=0.0, ge=0, le=1)  #: share of training episodes that are label-free; 1: no label is read at all
    names: tuple[str, ...] = ("colorization",)  #: registered pretexts; an episode draws one of them
    scans: int = Field(default=4, ge=1)  #: scans of an episode, each of another patient
    classes: int = Field(default=4, ge=2, le=8)  #: classes of an episode of rotation or random-labels, one a tile at most
    bins: int = Field(default=4, ge=2, le=16)  #: intensity bins of the restoring pretexts
    zoom: float = Field(default=0.5, gt=0, le=1)  #: least share of a scan's extent that a view shows along each axis
    lr: float = Field(default=1e-3, gt=0)  #: of weights in adapt --unlabelled, by a cosine to a hundredth
    alpha_lr: float = Field(default=0.02, ge=0)  #: of the architecture there; 0: alphas stay as they are
    steps: int = Field(default=60, ge=1)  #: gradient steps there, weights and alphas together
