"""When a search ends and what the rates are, by step."""

from __future__ import annotations

import math

from ..config import LearnerSettings


def switch_step(settings: LearnerSettings) -> int:
    """Return the step at which the alpha phase of a search ends: 0 when alpha stays as it is and the network is discrete from the start."""
    if not settings.discretize:
        return settings.steps
    if settings.alpha != "adapt":
        return 0
    # the soft network learns to rely on its mixture: the longer that lasts, the more the discrete one loses at the switch
    return min(math.ceil(settings.alpha_phase * settings.steps), settings.alpha_steps or settings.steps)


def rate_factor(step: int, settings: LearnerSettings) -> float:
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
