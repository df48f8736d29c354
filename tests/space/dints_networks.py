"""Small settings of DiNTS for its tests, and the published architecture."""

from __future__ import annotations

from typing import Any

import torch

from metanas_med.space.dints import Dints, DintsSettings

STRIDES = ((2, 2, 1), (2, 2, 2), (2, 2, 2))
SHAPE = (11, 9, 6)
SMALL: dict[str, Any] = {"base_width": 2, "max_width": 5, "levels": 3, "blocks": 3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(form: str = "house", dims: int = 3, **changes: Any) -> DintsSettings:
    return DintsSettings(**{**SMALL, "form": form, "dims": dims, "channel_mul": 0.0625, **changes})


def published_picks(settings: DintsSettings) -> dict[str, int]:
    space = Dints(settings)
    return {row: space.rows()[row].options.index(option) for row, option in space.published()["dints_cvpr"].items()}


def randomise(body: torch.nn.Module, seed: int = 0, gains: bool = True) -> None:
    """Move norms and gains away from their start, so that a forgotten one shows."""
    with torch.no_grad():
        for name, value in body.state_dict().items():
            if value.ndim == 1 and (gains or not name.endswith("gain")) and not name.startswith("alphas."):
                value.mul_(torch.empty(value.shape).uniform_(0.7, 1.4, generator=generator(seed)))
                value.add_(torch.empty(value.shape).uniform_(0.0, 0.2, generator=generator(seed + 1)))
