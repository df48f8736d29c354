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
    """Return what the learning rates are multiplied by at ``step`` (from 0): a cosine from 1 to a twentieth, a cooldown, or always 1.

    A cooldown keeps the rates for the first steps and lets them fall linearly over the last ``cooldown`` of them (Hägele et al. 2024,
    arXiv 2405.18392, section 3): few steps have no time to lose on small ones.
    """
    if settings.lr_decay == "none":
        return 1.0
    if settings.lr_decay == "cooldown":
        falling = max(round(settings.cooldown * settings.steps), 1)
        return min(1.0, (settings.steps - step) / (falling + 1))
    return max(0.5 * (1 + math.cos(math.pi * step / max(settings.steps, 1))), 0.05)
