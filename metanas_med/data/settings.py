"""Settings of plans and patches."""

from __future__ import annotations

from pydantic import Field, field_validator

from ..config import Section


class PlanSettings(Section):
    """How a plan is made from the support scans."""

    view_voxels: int = Field(default=20_000, ge=64)  #: voxels of a training view
    adapt_voxels: int = Field(default=32_768, ge=0)  #: voxels of a view in adapt; 0: as view_voxels
    margin: float = Field(default=1.6, ge=1.0, le=8.0)  #: wanted extent of a view / extent of the organ
    thickness: float = Field(
        default=2.0, ge=0.0, le=16.0
    )  #: least voxels across the thinnest organ; finer views show a part; 0: no limit
    augment: bool = True  #: small affine maps and intensity changes; no flips
    foreground: float = Field(default=0.7, ge=0.0, le=1.0)  #: share of patches centred on an organ voxel
    drop_small: bool = True  #: drop small pieces of organs that at least three support scans, and all of them, show in one piece

    @field_validator("adapt_voxels")
    @classmethod
    def _is_none_or_enough(cls, value: int) -> int:
        if 0 < value < 64:
            raise ValueError("expected 0 or at least 64")
        return value

    def of_adapt(self) -> PlanSettings:
        """Return these settings with the size of views that ``adapt`` takes."""
        return self.model_copy(update={"view_voxels": self.adapt_voxels or self.view_voxels, "adapt_voxels": 0})
