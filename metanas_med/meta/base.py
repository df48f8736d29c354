"""The protocol of meta learners: the meta state, the contribution of one task, and the outer step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field
from torch import Tensor

from ..config import Section
from ..registry import Registry


@dataclass(frozen=True)
class MetaState:
    """What is meta-learned: ``weights`` and ``alphas`` by name, detached."""

    weights: dict[str, Tensor]
    alphas: dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """The contribution of one task to an outer step.

    ``end``: the state its run reached. ``gradient``: of its query loss, by name of the weights, if the meta learner needs one.
    ``bad``: why the task is left out; then ``end`` is None.
    """

    end: MetaState | None
    gradient: dict[str, Tensor] | None = None
    losses: tuple[float, ...] = ()
    key: str = ""  #: name of the task
    waited: float = 0.0  #: seconds spent waiting for data
    bad: str = ""
    report: dict[str, Any] = field(default_factory=dict)


class MetaLearner(Protocol):
    """The outer step. A meta learner with memory also has ``state() -> dict[str, Tensor]`` and ``load(state)``."""

    needs_query: bool  #: updates must contain the gradient of a query loss
    query_gradient: Literal["", "first_order", "exact"]  #: which one

    def step(self, state: MetaState, updates: Iterable[Update], progress: float) -> MetaState:
        """Return the state after one iteration over ``updates``, taken one by one; without updates, ``state``."""
        ...

    def rates(self, progress: float) -> dict[str, float]:
        """Return the step sizes at ``progress`` in [0, 1], by name, for the log."""
        ...


class MetaSettings(Section):
    """The loop of meta-training; its meta learner is chosen by ``name``."""

    name: str
    iterations: int = Field(default=1500, ge=0)  #: total number of meta-steps
    batch: int = Field(default=1, ge=1)  #: tasks per iteration
    warmup: float = Field(default=0.0, ge=0, le=1)  #: share of the iterations with alphas frozen
    commit: float = Field(default=0.0, ge=0, le=1)  #: share after which only the discrete network learns; 0: at once; 1: never
    commit_margin: float = Field(default=1.0, gt=0)  #: margin by which the first choice of each row then leads
    max_seconds: float = Field(default=0.0, ge=0)  #: stop after this time; 0: never
    validate_every: int = Field(default=300, ge=1)  #: iterations between validations
    num_validation: int = Field(default=4, ge=0)  #: fixed validation episodes
    checkpoint_every: int = Field(default=25, ge=1)  #: iterations between checkpoints
    max_bad_tasks: int = Field(default=20, ge=0)  #: tolerated non-finite tasks among the last 100


METAS: Registry[MetaLearner] = Registry("meta.name")
register_meta = METAS.register


def build_meta(settings: MetaSettings) -> MetaLearner:
    """Return the meta learner that ``settings.name`` names; ConfigError for an unknown name."""
    return METAS.build(settings.name, settings)
