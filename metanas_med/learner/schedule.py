"""Learning rates by step."""

from __future__ import annotations

import math
from typing import Protocol


class Scheduled(Protocol):
    """Settings that a schedule reads."""

    @property
    def steps(self) -> int: ...
    @property
    def lr_decay(self) -> str: ...
    @property
    def cooldown(self) -> float: ...


def rate_factor(step: int, settings: Scheduled) -> float:
    """Return the factor of the learning rates at ``step`` (from 0): a cosine from 1 to 0.05, a cooldown, or always 1.

    A cooldown keeps the rates constant and lowers them linearly over the last share ``cooldown`` of the steps (Hägele et al.
    2024, arXiv 2405.18392, section 3). A short run cannot afford many steps at small rates.
    """
    if settings.lr_decay == "none":
        return 1.0
    if settings.lr_decay == "cooldown":
        falling = max(round(settings.cooldown * settings.steps), 1)
        return min(1.0, (settings.steps - step) / (falling + 1))
    return max(0.5 * (1 + math.cos(math.pi * step / max(settings.steps, 1))), 0.05)
