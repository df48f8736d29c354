"""The door of scores: what a network is worth for a task, from its support alone."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ...config import Section
from ...learner import Context, Task
from ...registry import Registry
from ...space.network import SegmentationNet


class Score(Protocol):
    """Rates a network on a support set: larger is better.

    ``net`` holds the meta state, or fresh weights, and is not changed: neither its values, gradients and task parameters nor torch's
    random state. All randomness comes from ``context.generator`` and from the generator of ``task.support``, which advances: open
    a task for each score where values must not depend on their order. A registered score says what it ``needs`` and what it ``costs``.
    """

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float:
        """Return the score of ``net`` on the support of ``task``; minus infinity where the network fails the test altogether.

        Raises NonFiniteLossError if a loss or a gradient is not finite.
        """
        ...


@runtime_checkable
class ScanScore(Protocol):
    """A score that is the mean of one value for each scan, so that two networks can be compared scan by scan."""

    def __call__(self, net: SegmentationNet, task: Task, context: Context) -> float: ...

    def by_scan(self, net: SegmentationNet, task: Task, context: Context) -> list[float]:
        """Return the value of each support scan, in order; nan for a scan without an annotated organ.

        A single scan gives one value for each of its augmented batches instead.
        """
        ...


class ScoreSettings(Section):
    """What every score has."""

    name: str


SCORES: Registry[Score] = Registry("score")
register_score = SCORES.register


def build_score(settings: ScoreSettings | str) -> Score:
    """Return the score that ``settings.name`` names, or a name alone with its default settings; ConfigError for an unknown name."""
    if not isinstance(settings, str):
        return SCORES.build(settings.name, settings)
    kind = SCORES.entry(settings).settings
    return SCORES.build(settings, kind() if kind is not None else ScoreSettings(name=settings))
