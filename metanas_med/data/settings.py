"""Settings of plans and patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from ..config import Section

#: margins and ratios of the joint space; a ratio of 0 is the scan's own
MARGINS, RATIOS = (1.2, 1.6, 2.2, 3.0), (0.0, 2.0, 1.0)


class PlanSettings(Section):
    """How a plan is made from the support scans."""

    view_voxels: int = Field(default=20_000, ge=64)  #: voxels of a training view
    adapt_voxels: int = Field(default=32_768, ge=0)  #: voxels of a view in adapt; 0: as view_voxels
    margin: float = Field(default=1.6, ge=1.0, le=8.0)  #: wanted extent of a view / extent of the organ
    varied: bool = False  #: training episodes draw view, margin and ratio of spacings around these (``vary``)
    thickness: float = Field(
        default=2.0, ge=0.0, le=16.0
    )  #: least voxels across the thinnest organ; finer views show a part; 0: no limit
    ratio: float = Field(default=0.0, ge=0)  #: largest through-plane / in-plane spacing of the grid; 1: isotropic; 0: no limit
    thick_stride: int = Field(default=0, ge=0)  #: first level transition, from 1, that may stride the thick axis; 0: by spacing
    augment: float = Field(default=1.0, ge=0, le=4)  #: strength of small affine maps and intensity changes; 0: none; no flips
    foreground: float = Field(default=0.7, ge=0.0, le=1.0)  #: share of patches centred on an organ voxel
    drop_small: bool = True  #: drop small pieces of organs that at least three support scans, and all of them, show in one piece

    @field_validator("adapt_voxels")
    @classmethod
    def _is_none_or_enough(cls, value: int) -> int:
        if 0 < value < 64:
            raise ValueError("expected 0 or at least 64")
        return value

    @field_validator("ratio")
    @classmethod
    def _is_none_or_a_ratio(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("expected 0 or at least 1")
        return value

    @model_validator(mode="before")
    @classmethod
    def _switch_is_a_strength(cls, values: Any) -> Any:
        """Read ``augment`` as older settings have it: true is a strength of 1, false one of 0."""
        if isinstance(values, Mapping) and isinstance(values.get("augment"), bool):
            return {**values, "augment": float(values["augment"])}
        return values

    def of_adapt(self) -> PlanSettings:
        """Return these settings with the size of views that ``adapt`` takes."""
        return self.model_copy(update={"view_voxels": self.adapt_voxels or self.view_voxels, "adapt_voxels": 0})


def vary(settings: PlanSettings, generator: np.random.Generator) -> PlanSettings:
    """Return the settings of one training episode: with ``varied``, another view size, margin and ratio of spacings.

    The voxels of a view are half to twice ``view_voxels``, uniform in their logarithm. Margin and ratio are drawn from the options
    of the joint space. A start that is trained like this serves them all.
    """
    if not settings.varied:
        return settings
    voxels = round(settings.view_voxels * 2.0 ** generator.uniform(-1, 1))
    margin, ratio = float(generator.choice(MARGINS)), float(generator.choice(RATIOS, p=[0.5, 0.25, 0.25]))
    return settings.model_copy(update={"view_voxels": voxels, "margin": margin, "ratio": ratio})
