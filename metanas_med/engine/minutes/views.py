"""Folds of a single patient: transformed copies of planned scans to train on, and others to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ...data.patches import Volume
from ...learner.losses import organ_dice
from ...tasks.episode import Episode
from ..model import Model
from ..predict import look_grids, predict_scores


@dataclass(frozen=True)
class Copy:
    """One transformation: a rotation (radians) and a scale in the plane of the finer axes, and a power of the intensities."""

    turn: float
    scale: float
    power: float


@dataclass(frozen=True)
class Copies:
    """The copies that a fold trains on, and those that score it."""

    train: tuple[Copy, ...]
    left: tuple[Copy, ...]


_ONE = (Copy(0.15, 1.06, 0.8), Copy(-0.1, 0.94, 1.25))
_OTHER = (Copy(-0.2, 1.1, 1.25), Copy(0.1, 0.9, 0.8))
#: two folds, each the other's test
FOLDS = (Copies(_ONE, _OTHER), Copies(_OTHER, _ONE))


def copied(volume: Volume, copy: Copy, spacing: Sequence[float]) -> Volume:
    """Return the transformed copy of a planned scan, with ``spacing`` in mm; what moves in from outside repeats the edge."""
    there, _ = look_grids(copy.turn, copy.scale, volume.label.shape, spacing)
    image = F.grid_sample(volume.image[None], there, padding_mode="border", align_corners=False)[0]
    label = F.grid_sample(volume.label[None, None].float(), there, mode="nearest", padding_mode="border", align_corners=False)[
        0, 0
    ]
    return replace(volume, image=image.sign() * image.abs() ** copy.power, label=label.round().to(torch.uint8))


def copied_episode(episode: Episode, copies: Sequence[Copy]) -> Episode:
    """Return the episode whose support is the ``copies`` of its support scans."""
    support = tuple(copied(v, copy, episode.plan.spacing) for v in episode.support for copy in copies)
    return replace(episode, support=support)


def score_copies(model: Model, episode: Episode, copies: Sequence[Copy], tta: bool) -> dict[str, dict[str, float]]:
    """Return Dice by copy and organ on ``copies`` of the scans of ``episode``, which are its planned, unchanged scans."""
    found = {}
    for volume in episode.support:
        for number, copy in enumerate(copies):
            moved = copied(volume, copy, model.plan.spacing)
            scores = predict_scores(model.net, moved.image, model.plan, model.runtime, tta=tta)
            dice = organ_dice(scores[None], moved.label[None], (moved.missing,))
            found[f"{volume.name}/{number}"] = {model.task.names[k - 1]: value for k, value in dice.items()}
    return found
