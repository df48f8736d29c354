"""LOSO: short adaptations, each judged on the scans that it did not see."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, SerializeAsAny

from ...config import ByName
from ...learner import LEARNERS, Context, DartsSettings, LearnerSettings, Task, build_learner
from ...learner.episode import BatchLike
from ...learner.losses import mean_dice
from ...space.network import SegmentationNet
from .base import ScoreSettings, register_score
from .probe import mean_of
from .subset import left_out, restricted

#: augmented batches that judge a fit of a single scan
AUGMENTED_BATCHES = 4


class LosoSettings(ScoreSettings):
    """Short adaptations without some of the scans."""

    name: str = "loso"
    learner: Annotated[SerializeAsAny[LearnerSettings], ByName.of(LEARNERS)] = DartsSettings()  #: each adaptation
    folds: int = Field(default=0, ge=0)  #: 0: leave one scan out; 2: two folds, two adaptations
    groups: tuple[int, ...] = ()  #: the patient of each scan; scans of one patient are left out together; empty: all differ


@register_score(
    "loso",
    settings=LosoSettings,
    source="leave-one-out cross-validation (Stone 1974)",
    needs="untrained or meta-learned weights, labels; one scan: a weak, optimistic value",
    costs="an adaptation for each scan, or for each of two folds; a copy of the network and its optimizer",
)
class Loso:
    """Mean Dice of scans that were left out of short adaptations.

    Dice is on the unaugmented views of a scan. A single scan, or the scans of a single patient, are judged on augmented patches of
    themselves, which is optimistic.

    Cost: ``learner.steps`` steps for each scan, or for each of ``folds``, and one forward pass a view. Memory: one run, on a copy of
    the network.
    """

    def __init__(self, settings: LosoSettings) -> None:
        self.settings = settings

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the mean Dice over scans. Raises NonFiniteLossError if a loss or a gradient is not finite."""
        return mean_of(self.by_scan(net, task, context))

    def by_scan(self, net: SegmentationNet, task: Task, context: Context) -> list[float]:
        """Return the Dice of each scan when it was left out; of a single patient the Dice of augmented batches."""
        s, every = self.settings, list(range(task.num_scans))
        folds = left_out(task.num_scans, s.folds, s.groups, context.generator)
        seeds = [int(seed) for seed in context.generator.integers(2**62, size=max(len(folds), 1))]
        if not folds:
            adapted = self._fit(net, task, context, seeds[0])
            batches = list(task.support.stream([(2, every)] * AUGMENTED_BATCHES))
            return [judged(adapted, task, batch, context) for batch in batches]
        found = [float("nan")] * task.num_scans
        for scans, seed in zip(folds, seeds, strict=True):
            adapted = self._fit(net, restricted(task, [i for i in every if i not in scans]), context, seed)
            for scan in scans:
                found[scan] = judged(adapted, task, task.support.views(scan), context)
        return found

    def _fit(self, net: SegmentationNet, task: Task, context: Context, seed: int) -> SegmentationNet:
        """Return an adapted copy of ``net``."""
        own = replace(context, generator=np.random.default_rng(seed), query_gradient="")
        return build_learner(self.settings.learner).run(copy.deepcopy(net), task, own).net


@torch.no_grad()
def judged(net: SegmentationNet, task: Task, batch: BatchLike, context: Context) -> float:
    """Return the mean Dice of ``net`` on a batch over its organs; nan if no organ is annotated in any entry."""
    if unannotated(batch, task.num_organs):
        return float("nan")
    runtime = context.runtime
    with runtime.autocast():
        logits = net(runtime.place(batch.images), batch.coords.to(runtime.device), task.strides)
    return mean_dice(logits, batch.labels.to(logits.device), batch.missing)


def unannotated(batch: BatchLike, num_organs: int) -> bool:
    """Return whether no entry of a batch annotates an organ, so that it cannot judge."""
    return bool(batch.missing) and all(len(set(organs)) >= num_organs for organs in batch.missing)
