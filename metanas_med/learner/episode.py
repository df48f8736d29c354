"""The input of a task learner, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import Tensor


class BatchLike(Protocol):
    """``images`` (B, C, X, Y, Z), ``coords`` (B, 3, X, Y, Z), ``labels`` (B, X, Y, Z) int64.

    ``missing``: for each entry the organs 1..K that are not annotated in its scan; empty if all are annotated in all of them.
    """

    @property
    def images(self) -> Tensor: ...
    @property
    def coords(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def missing(self) -> tuple[tuple[int, ...], ...]: ...


class SupportLike(Protocol):
    """A source of batches from the support scans, numbered from 0."""

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[BatchLike]:
        """Yield one batch for each request of (size, scan numbers), in order."""
        ...

    def views(self, scan: int) -> BatchLike:
        """Return unaugmented views of one scan."""
        ...


@dataclass(frozen=True)
class Task:
    """One task for a learner: a source of support batches and the numbers that shape the network."""

    support: SupportLike
    num_scans: int
    num_channels: int
    num_organs: int
    strides: tuple[tuple[int, int, int], ...]
    view: tuple[int, int, int]
    key: str = ""  #: name of a recurring task; empty for a synthetic or changed one


@dataclass
class LearnerReport:
    """What a run of the task learner did; every field is a JSON value. Dice values are on the support's own views."""

    steps: int = 0
    alpha: str = "frozen"
    alpha_split: str = "none"
    head: str = "closed_form"
    ridge_strength: float | None = None
    losses: list[float] = field(default_factory=list)
    alpha_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    check_seconds: float = 0.0  #: part of ``seconds`` spent on the gaps between soft and discrete network
    gradient_evaluations: int = 0
    top_probability_mean: float | None = None
    top_probability_min: float | None = None
    dice_soft_at_switch: float | None = None
    dice_discrete_at_switch: float | None = None
    gap_at_switch: float | None = None
    gap_at_end: float | None = None
    genotype: dict[str, Any] | None = None
    #: rows whose options the search could not tell apart (evidence.py), and the number of rows; None: alphas did not move
    undecided: list[str] | None = None
    num_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


class NonFiniteLossError(ArithmeticError):
    """The loss of a task became infinite or not a number."""
