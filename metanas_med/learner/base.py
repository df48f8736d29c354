"""The door of task learners: what they are given, what they return, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field
from torch import Tensor

from ..config import Section
from ..registry import Registry
from ..space.network import SegmentationNet
from .episode import LearnerReport, Task
from .runtime import Runtime

StepHook = Callable[[int, float], None]  #: called with the step, from 0, and its loss

#: What a meta learner asks of a run: nothing but its end, or the gradient of a query loss at the end (first order) or through the steps (exact).
QueryGradient = Literal["", "first_order", "exact"]


@dataclass(frozen=True)
class Context:
    """Everything a run depends on besides network and task."""

    generator: np.random.Generator
    runtime: Runtime = field(default_factory=Runtime)
    on_step: StepHook | None = None
    query_gradient: QueryGradient = ""


@dataclass
class Adapted:
    """The result of a run.

    ``net`` is discrete after a switch, else the soft network. ``gradient``: of a query loss, by name of the meta-learned weights, where
    the context asks for it.
    """

    net: SegmentationNet
    report: LearnerReport
    gradient: dict[str, Tensor] | None = None


class TaskLearner(Protocol):
    """One run on one support set."""

    gives_query_gradient: bool  #: it can return the gradient of a query loss

    def run(self, net: SegmentationNet, task: Task, context: Context) -> Adapted:
        """Return ``net``, which holds the meta state and is changed in place, adapted to ``task``.

        Raises NonFiniteLossError when a loss or a gradient is not finite.
        """
        ...


class LearnerSettings(Section):
    """What every task learner has."""

    name: str
    steps: int = Field(default=20, ge=0)  #: gradient steps in all

    @property
    def keeps_alphas(self) -> bool:
        """Whether these settings ask that alphas stay as they are, in every phase of a run."""
        return False

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search an architecture."""
        return 0

    def extra_evaluations(self, steps: int) -> int:
        """Return the gradient evaluations of ``steps`` that come on top of one a step."""
        return 0

    def fixed(self, discrete: bool) -> LearnerSettings:
        """Return these settings with alphas as they are: of the soft network, or (``discrete``) of the architecture they stand for."""
        return self


LEARNERS: Registry[TaskLearner] = Registry("learner.name")
register_learner = LEARNERS.register
list_learners = LEARNERS.names


def build_learner(settings: Any) -> TaskLearner:
    """Return the task learner that ``settings.name`` names; ConfigError for an unknown name."""
    return LEARNERS.build(settings.name, settings)
