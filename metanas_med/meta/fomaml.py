"""First-order MAML (Finn et al. 2017, arXiv 1703.03400, section 5.2): a step down the mean gradient of the query losses."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..l2l import import_learn2learn
from .base import MetaState, Update, register_meta
from .reptile import MeanDifference, OuterSettings, center_row, interpolate


class FomamlSettings(OuterSettings):
    """Steps down the gradient of the query losses; needs ``learner.name sgd``."""

    name: str = "fomaml"


@register_meta(
    "fomaml",
    settings=FomamlSettings,
    source="Finn et al. 2017, arXiv 1703.03400, section 5.2; gradients by learn2learn",
    refuses="task learners without a query gradient (use learner.name sgd)",
)
class Fomaml:
    """A step down the mean gradient of the query losses, taken at the adapted weights; alphas do not move."""

    needs_query = True
    query_gradient = "first_order"

    def __init__(self, settings: FomamlSettings) -> None:
        import_learn2learn()  # a missing library fails here, before the first task
        self.settings = settings

    def rates(self, progress: float) -> dict[str, float]:
        """Return the step size at ``progress`` in [0, 1]."""
        return {"beta_weights": self.settings.beta_weights * self.settings.decay(progress)}

    def step(self, state: MetaState, updates: Iterable[Update], progress: float) -> MetaState:
        """Return the state after a step down the mean of the updates' gradients, taken one by one; unchanged without any."""
        zeros = {name: torch.zeros_like(value) for name, value in state.weights.items()}
        mean = MeanDifference(zeros)
        for update in updates:
            if update.gradient is not None:
                mean.add(update.gradient)
        if not mean.count:
            return state
        rate = self.rates(progress)["beta_weights"]
        weights = interpolate(state.weights, mean.mean(), -rate)
        return MetaState(weights, {n: center_row(a) for n, a in state.alphas.items()})
