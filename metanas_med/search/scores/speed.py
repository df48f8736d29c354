"""SoTL-E: how low the losses at the end of a short run are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, SerializeAsAny

from ...config import ByName
from ...learner import LEARNERS, Context, DartsSettings, LearnerSettings, Task, build_learner
from ...space.network import SegmentationNet
from .base import ScoreSettings, register_score
from .probe import check_finite


class SotlSettings(ScoreSettings):
    """The end of a short run."""

    name: str = "sotl"
    learner: Annotated[SerializeAsAny[LearnerSettings], ByName.of(LEARNERS)] = DartsSettings()  #: the run
    last: float = Field(default=0.25, gt=0, le=1)  #: share of the steps whose losses are summed


@register_score(
    "sotl",
    settings=SotlSettings,
    source="Ru et al. 2021, arXiv 2006.04492 (SoTL-E)",
    needs="untrained or meta-learned weights, labels",
    costs="a run of the task learner: 20 steps of 8 patches by default; a copy of the network and its optimizer",
)
class Sotl:
    """Minus the training losses at the end of a short run.

    Cost and memory: of the run, on a copy of the network. A run that was made in any case costs nothing (``speed_of``).
    """

    def __init__(self, settings: SotlSettings) -> None:
        self.settings = settings

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return minus the mean of the last losses. Raises NonFiniteLossError if a loss or a gradient is not finite."""
        adapted = build_learner(self.settings.learner).run(copy.deepcopy(net), task, context)
        return speed_of(adapted.report.losses, self.settings.last)


def speed_of(losses: Sequence[float], last: float = 0.25) -> float:
    """Return minus the mean of the last share ``last`` of the training ``losses`` of a run (at least one of them).

    Published is the sum over the last epoch. The mean has the same order for runs of equal length, and compares runs of different
    lengths. Losses of different batch sizes or views compare only roughly. Raises ValueError without a loss.
    """
    if not losses:
        raise ValueError("a run without steps has no training losses")
    end = losses[-max(1, round(last * len(losses))) :]
    check_finite(end, "a training loss")
    return -float(np.mean(end))
