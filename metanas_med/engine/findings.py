"""What an adapted model finds in its own support: the Dice by organ, and why an organ may be found nowhere."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.patches import Volume
from ..data.plan import Plan
from ..data.settings import PlanSettings
from ..ignored import IGNORED
from ..learner.losses import organ_dice
from ..learner.support import dice_by_organ
from ..tasks.episode import Episode
from .model import Model
from .predict import predict_scores
from .solve import open_task

log = logging.getLogger(__name__)

#: a mean Dice below this on the scans that a model was fitted to counts as nothing found
NOTHING = 0.1
#: scans in which an organ is looked for
_ENOUGH = 2
#: an organ of fewer voxels on the planned grid may be too small to be learned
_FEW_VOXELS = 20
#: a difference of means below this many standard deviations counts as no contrast
_NO_CONTRAST = 0.5
#: share of voxels at a bound of the intensity window at which an organ counts as clipped with its surroundings
_CLIPPED = 0.95


def check_support(
    model: Model, episode: Episode, settings: PlanSettings, steps: int, held: Sequence[bool]
) -> dict[str, float | None]:
    """Return the mean Dice by organ on the support; None for an organ that is not ``held``: shown and annotated in a scan.

    It is that of fixed, unaugmented views of the first two scans that show an organ. An organ that is found in none of them is
    looked for in all whole scans; if it is found nowhere, a warning says why, as far as that can be known, and what to try.
    Cost: one forward pass per view.
    """
    seen: Counter[int] = Counter()
    some = []
    for volume in episode.support:
        shown = [k for k in volume.label.unique().tolist() if k not in (0, IGNORED)]
        if any(seen[k] < _ENOUGH for k in shown):
            some.append(volume)
        seen.update(shown)
    calm, left = settings.model_copy(update={"augment": False}), sorted(seen)
    task, _ = open_task(replace(episode, support=tuple(some)), calm, np.random.default_rng([0, 17]))
    found = dice_by_organ(model.net, task, model.runtime)
    if weak := [k for k in left if found.get(k, 0.0) < NOTHING]:
        found |= _whole_scans(model, episode, weak)
    for k in weak:
        if found[k] < NOTHING:
            _warn(model.task.names[k - 1], found[k], reasons(episode.support, k, model.plan), steps, task.num_organs)
    # an organ that vanished on the planned grid is known before the first step, with a warning of its own
    return {name: found.get(k, 0.0 if held[k - 1] else None) for k, name in enumerate(model.task.names, start=1)}


def _whole_scans(model: Model, episode: Episode, organs: Sequence[int]) -> dict[int, float]:
    """Return the mean Dice of ``organs`` on whole planned scans, over the support scans that show them."""
    values: dict[int, list[float]] = {k: [] for k in organs}
    for volume in episode.support:
        shown = [k for k in organs if bool((volume.label == k).any())]
        if shown:
            scores = predict_scores(model.net, volume.image, model.plan, model.runtime)
            dice = organ_dice(scores[None], volume.label[None])
            for k in shown:
                values[k].append(dice.get(k, 0.0))
    return {k: sum(own) / len(own) for k, own in values.items()}


def reasons(volumes: Sequence[Volume], organ: int, plan: Plan) -> list[tuple[str, str]]:
    """Return why an organ may not be found in planned scans, each with what to try; empty if nothing is known."""
    shown = [v for v in volumes if bool((v.label == organ).any())]
    found = []
    if all(bool(channel.max() - channel.min() < 1e-6) for v in shown for channel in v.image):
        found.append((f"the planned scans are constant{_window(plan)}", "check the scans' intensities and the labels"))
    elif all(_clipped(v, organ, plan) for v in shown):
        found.append(
            (
                f"the intensity window{_window(plan)} clips it and its surroundings to one value",
                "fit it alone, so that the window is its own, or check the scans' intensities",
            )
        )
    elif (contrast := median(_contrast(v, organ) for v in shown)) < _NO_CONTRAST:
        found.append(
            (
                f"it has no contrast: its mean intensity differs from that of its surroundings by {contrast:.2f} standard deviations",
                "check that labels and scans belong together, or add a channel that shows it",
            )
        )
    voxels = median(int((v.label == organ).sum()) for v in shown)
    if voxels < _FEW_VOXELS:
        grid = " x ".join(f"{size:.3g}" for size in plan.spacing)
        found.append(
            (
                f"only {voxels:g} voxels of it are left on the planned grid of {grid} mm",
                "raise --plan.view_voxels, or fit it alone",
            )
        )
    return found


def _warn(name: str, dice: float, known: Sequence[tuple[str, str]], steps: int, num_organs: int) -> None:
    advice = list(dict.fromkeys(what for _, what in known)) or ["add steps or other support scans, or check the labels"]
    if steps < 20:
        advice.append(f"take more than {steps} steps (--steps)")
    log.warning(
        "the model does not find %s in its own support scans (Dice %.2f)%s. Do not use it for %s. Try this: %s",
        name,
        dice,
        f": {'; '.join(why for why, _ in known)}" if known else "",
        "this organ" if num_organs > 1 else "anything",
        "; ".join(advice),
    )


def _window(plan: Plan) -> str:
    windows = [f"[{i.low:.4g}, {i.high:.4g}]" for i in plan.intensities if i.kind == "ct"]
    return f" (values are clipped to {', '.join(windows)})" if windows else ""


def _surroundings(volume: Volume, organ: int) -> tuple[Tensor, Tensor]:
    """Return the mask (X, Y, Z) of an organ and that of the other voxels up to two voxels away from it."""
    mask = volume.label == organ
    near = F.max_pool3d(mask[None, None].float(), 5, stride=1, padding=2)[0, 0] > 0
    return mask, near & ~mask & (volume.label != IGNORED)


def _contrast(volume: Volume, organ: int) -> float:
    """Return the largest difference of means between an organ and its surroundings over channels, in standard deviations."""
    inside, outside = _surroundings(volume, organ)
    found = []
    for channel in volume.image:
        one, other = channel[inside].double(), channel[outside].double()
        if len(other):
            noise = torch.sqrt((one.var(correction=0) + other.var(correction=0)) / 2)
            found.append(float((one.mean() - other.mean()).abs() / noise.clamp(min=1e-6)))
    return max(found, default=0.0)


def _clipped(volume: Volume, organ: int, plan: Plan) -> bool:
    """Return whether every channel has almost all of an organ and its surroundings at one bound of its intensity window."""
    inside, outside = _surroundings(volume, organ)
    for channel, intensity in zip(volume.image, plan.intensities, strict=True):
        if intensity.kind != "ct":
            return False
        values = channel[inside | outside] * intensity.scale + intensity.center
        slack = 1e-3 * (intensity.high - intensity.low) + 1e-6
        shares = [(values <= intensity.low + slack).float().mean(), (values >= intensity.high - slack).float().mean()]
        if max(float(share) for share in shares) < _CLIPPED:
            return False
    return True
