"""The protocol of task learners: their inputs, their results, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field
from torch import Tensor

from ..config import Section
from ..registry import Registry
from ..space import SpaceSettings
from ..space.base import Body, Row
from ..space.network import SegmentationNet
from .episode import LearnerReport, Task
from .runtime import Runtime

StepHook = Callable[[int, float], None]  #: called with the step, from 0, and its loss
#: called before a training step with its number, from 0, and the number of steps of the run; returns the latter as it is now
Pace = Callable[[int, int], int]

#: What a meta learner needs from a run: only its end, or the gradient of a query loss at the end (first_order) or through all
#: steps (exact).
QueryGradient = Literal["", "first_order", "exact"]


@dataclass(frozen=True)
class Context:
    """Everything that a run depends on, apart from network and task."""

    generator: np.random.Generator
    runtime: Runtime = field(default_factory=Runtime)
    on_step: StepHook | None = None
    query_gradient: QueryGradient = ""
    pace: Pace | None = None  #: moves the end of the run, and with it the schedule; None: the settings' number of steps


@dataclass
class Adapted:
    """The result of a run.

    ``net`` is discrete after a switch, otherwise soft. ``gradient``: of a query loss, by name of the meta-learned weights, if the
    context asks for it.
    """

    net: SegmentationNet
    report: LearnerReport
    gradient: dict[str, Tensor] | None = None


class TaskLearner(Protocol):
    """One run on one support set."""

    gives_query_gradient: bool  #: it can return the gradient of a query loss

    def run(self, net: SegmentationNet, task: Task, context: Context) -> Adapted:
        """Return ``net``, which holds the meta state and is changed in place, adapted to ``task``.

        Raises NonFiniteLossError if a loss or a gradient is not finite.
        """
        ...


class LearnerSettings(Section):
    """Settings of every task learner."""

    name: str
    batch: int = Field(default=8, ge=1)  #: patches a step
    steps: int = Field(default=20, ge=0)  #: total number of gradient steps

    @property
    def keeps_alphas(self) -> bool:
        """Whether alphas do not move in any phase of a run."""
        return False

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search an architecture."""
        return 0

    def extra_evaluations(self, steps: int) -> int:
        """Return the gradient evaluations of ``steps`` in addition to one per step."""
        return 0

    def decided(self, body: Body) -> tuple[LearnerSettings, str]:
        """Return settings that no longer depend on the network, for a supernet ``body`` with its alphas, and the reason."""
        return self, ""

    def reason_against(self, rows: Mapping[str, Row] | None = None, space: SpaceSettings | None = None) -> str:
        """Return why this learner is impossible on a ``space`` of ``rows``, and what to do instead; empty if it is possible."""
        return ""

    def fixed(self, discrete: bool) -> LearnerSettings:
        """Return these settings with fixed alphas, for the soft network or (``discrete``) the architecture that alphas encode."""
        return self


LEARNERS: Registry[TaskLearner] = Registry("learner.name")
register_learner = LEARNERS.register


def build_learner(settings: Any) -> TaskLearner:
    """Return the task learner that ``settings.name`` names; ConfigError for an unknown name."""
    return LEARNERS.build(settings.name, settings)
