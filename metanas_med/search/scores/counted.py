"""Scores that count: the baselines that every other score has to beat."""

from __future__ import annotations

from ...learner import Context, Task
from ...space import cost
from ...space.network import SegmentationNet
from .base import ScoreSettings, register_score


class _Counted:
    kind = ""

    def __init__(self, settings: ScoreSettings) -> None:
        self.settings = settings

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the count; needs no weights, takes no forward pass."""
        return float(cost(net.body, task.view, task.strides)[self.kind])


@register_score("parameters", source="Krishnakumar et al. 2022, arXiv 2210.03230", needs="no weights", costs="no pass, no memory")
class Parameters(_Counted):
    """Number of weights of the body."""

    kind = "parameters"


@register_score(
    "multiply_adds", source="Krishnakumar et al. 2022, arXiv 2210.03230 (flops)", needs="no weights", costs="no pass, no memory"
)
class MultiplyAdds(_Counted):
    """Multiply-adds of one view through the body, so that larger views score higher, too."""

    kind = "multiply_adds"
