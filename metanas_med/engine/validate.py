"""Dice of an adapted network on whole query scans, in their own geometry."""

from __future__ import annotations

import numpy as np

from ..learner import Runtime
from ..space.network import SegmentationNet
from ..tasks.episode import Episode
from .predict import predict_labels


def dice(truth: np.ndarray, prediction: np.ndarray, organ: int) -> float:
    """Return the Dice of one organ; 1 where it is in neither map."""
    t, p = truth == organ, prediction == organ
    total = int(t.sum()) + int(p.sum())
    return 2.0 * int((t & p).sum()) / total if total else 1.0


def query_dice(net: SegmentationNet, episode: Episode, runtime: Runtime, keep: dict[str, np.ndarray] | None = None) -> float:
    """Return the mean Dice over query scans and organs, whole volumes in native spacing; ``keep`` gets the label maps by scan."""
    values = []
    for scan in episode.query:
        prediction = predict_labels(net, scan.image, episode.plan, scan.truth.shape, runtime)
        if keep is not None:
            keep[scan.name] = prediction
        values += [dice(scan.truth, prediction, k) for k in range(1, episode.task.num_organs + 1)]
    return float(np.mean(values))
