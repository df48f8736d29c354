"""R-DARTS: the search ends where the validation loss becomes sharp in the alphas, and the alphas from before are kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from pydantic import Field
from torch import Tensor

from ...space.network import SegmentationNet
from ..curvature import hessian_product, largest_eigenvalue
from ..episode import Task
from .base import Combination, Moment, RegularizerSettings, Watcher, register_regularizer

log = logging.getLogger(__name__)


class RDartsSettings(RegularizerSettings):
    """When the largest eigenvalue is measured, and how far it may grow."""

    name: str = "r_darts"
    every: int = Field(default=1, ge=1)  #: alpha steps from one measurement to the next
    window: int = Field(default=5, ge=1)  #: measurements of a mean
    lag: int = Field(default=4, ge=1)  #: a mean is compared with the one of so many measurements before
    ratio: float = Field(default=1.3, gt=1)  #: the search ends if the quotient of the two is larger
    warm_up: int = Field(default=10, ge=0)  #: first measurements that cannot end the search
    iterations: int = Field(default=30, ge=1)  #: most Hessian-vector products of a measurement


def stop_at(values: Sequence[float], window: int = 5, lag: int = 4, ratio: float = 1.3, warm_up: int = 10) -> int | None:
    """Return the number, from 0, of the measurement whose alphas to keep if the last of ``values`` ends the search; otherwise None.

    With ``mean_i`` the mean of the last ``window`` values up to the i-th (of fewer at the start), the search ends at the last one, i,
    if it comes after ``warm_up`` values and ``mean_i / mean_{i - lag} > ratio``. The result is then ``i - lag``. Means of zero and
    below have no quotient.
    """
    last = len(values) - 1
    if last < max(warm_up, lag):
        return None

    def mean(i: int) -> float:
        found = values[max(0, i - window + 1) : i + 1]
        return sum(found) / len(found)

    before = mean(last - lag)
    return last - lag if before > 0 and mean(last) > ratio * before else None


@register_regularizer(
    "r_darts",
    settings=RDartsSettings,
    source="Zela et al. 2020, arXiv 1909.09656: early stopping by the dominant eigenvalue",
    needs="a discretizer",
    costs="per measurement a gradient of the judging loss, with all options, and up to `iterations` passes through it",
    refuses="discretizer none, and relaxations whose alphas do not move",
)
class RDarts:
    """The search ends where the largest eigenvalue of the alpha-Hessian has grown by a third; the alphas before that are kept.

    The loss is that of the batch which judges alphas; in a single-level search this is the batch of the weights. The eigenvalue is
    measured after alpha steps. An epoch of the paper is one measurement here.
    """

    def __init__(self, settings: RDartsSettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> None:
        """Return no penalty."""

    def watch(self, net: SegmentationNet) -> Watcher:
        """Return what ends a run."""
        s = self.settings
        values: list[float] = []
        rows: list[dict[str, Tensor]] = []

        def watcher(moment: Moment) -> Mapping[str, Tensor] | None:
            if (moment.number - 1) % s.every:
                return None
            alphas = moment.net.alphas()
            values.append(largest_eigenvalue(*hessian_product(moment.loss, list(alphas.values())), s.iterations))
            rows.append({name: row.detach().clone() for name, row in alphas.items()})
            if not math.isfinite(values[-1]):
                return None
            kept = stop_at(values, s.window, s.lag, s.ratio, s.warm_up)
            if kept is None:
                return None
            log.info("r_darts: the search ends after %d alpha steps; alphas of measurement %d are kept", moment.number, kept + 1)
            return rows[kept]

        return watcher

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        return needs_discretizer(combination)

    def without_effect(self, combination: Combination) -> str:
        """Return why the search cannot end early; empty if it can."""
        s, learner = self.settings, combination.learner
        found, first = math.ceil(learner.search_steps(learner.steps) / learner.alpha_every / s.every), max(s.warm_up, s.lag)
        return "" if found > first else f"the search has {found} measurements, and the first {first} cannot end it"


def needs_discretizer(combination: Combination) -> str:
    """Return why a search that stays soft cannot end early; empty if it becomes discrete."""
    if combination.learner.discretizer.name != "none":
        return ""
    return "it ends the search early, and with discretizer none nothing follows the search. Use discretizer.name argmax."
