"""What the regularizers of a run add to its search: penalties, changed choices, perturbed weight steps, an early end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..space import SpaceSettings
from ..space.base import Row
from ..space.choice import Choice, Relaxed
from ..space.network import SegmentationNet
from .episode import Task
from .regularizers.base import Combination, Moment, Penalty, Regularizer

log = logging.getLogger(__name__)


class SearchHooks:
    """The regularizers of one run on ``task`` that starts at ``net``."""

    def __init__(self, parts: Sequence[Regularizer], net: SegmentationNet, task: Task) -> None:
        found = [part.on(net, task) for part in parts]
        self._penalties = [penalty for penalty in found if penalty is not None]
        self._weigh = [part.weigh for part in _having(parts, "weigh")]
        self._perturb = [part.perturb for part in _having(parts, "perturb")]
        self._watchers = [part.watch(net) for part in _having(parts, "watch")]
        self._moments = 0
        self.evaluations = 0  #: gradients of perturbed losses so far

    @property
    def penalty(self) -> Penalty | None:
        """The sum of all penalties; None without any."""
        if not self._penalties:
            return None
        return lambda model: torch.stack([penalty(model) for penalty in self._penalties]).sum()

    def relaxed(self, relaxed: Relaxed) -> Relaxed:
        """Return ``relaxed`` as all steps of the search see it."""
        return replace(relaxed, adjust=self._weighed) if self._weigh else relaxed

    def _weighed(self, choice: Choice, progress: float) -> Choice:
        for weigh in self._weigh:
            choice = weigh(choice, progress)
        return choice

    @contextmanager
    def perturbed(self, net: SegmentationNet, loss: Callable[[], Tensor], generator: torch.Generator) -> Iterator[None]:
        """Let a weight step within the block see perturbed rows; ``loss``: of its batch at the present weights."""
        before = net.body.relaxed

        def at(rows: Mapping[str, Tensor]) -> Relaxed:
            def adjust(choice: Choice, progress: float) -> Choice:
                choice = before.adjust(choice, progress) if before.adjust else choice
                return replace(choice, rows={**choice.rows, **rows}, logits=None)

            return replace(before, adjust=adjust)

        def loss_at(rows: Mapping[str, Tensor]) -> Tensor:
            net.body.relax(replace(at(rows), prune=0.0))
            self.evaluations += torch.is_grad_enabled()
            return loss()

        try:
            for perturb in self._perturb:
                net.body.relax(replace(before, prune=0.0))
                rows = perturb(net.body.choose(), loss_at, before.progress, generator)
                net.body.relax(at(rows))
            yield
        finally:
            net.body.relax(before)

    def ends(self, net: SegmentationNet, loss: Callable[[], Tensor]) -> bool:
        """Return whether the search ends after this alpha step; the rows to keep are then in ``net``.

        ``loss``: of the batch that judges alphas, in float32.
        """
        self._moments += 1
        if not self._watchers:
            return False
        before = net.body.relaxed
        # all options are run, and alphas are judged without noise
        net.body.relax(replace(before, prune=0.0, generator=None))
        try:
            kept = [found for watcher in self._watchers if (found := watcher(Moment(self._moments, net, loss))) is not None]
        finally:
            net.body.relax(before)
        if kept:
            with torch.no_grad():
                for name, row in net.alphas().items():
                    row.copy_(kept[0][name])
        return bool(kept)


def reason_against(
    parts: Sequence[Regularizer],
    learner: Any,
    relaxation: Any,
    bilevel: bool,
    rows: Mapping[str, Row] | None = None,
    space: SpaceSettings | None = None,
) -> str:
    """Return why a combination with one of the regularizers is impossible, and what to do instead; empty if it is not.

    ``learner``: the settings of the task learner; ``rows`` and ``space``: of the search space, if they are known.
    """
    if parts and not getattr(relaxation, "moves_alphas", True):
        return (
            f"alphas do not move with relaxation {learner.relaxation.name}: regularizers have nothing to act on. "
            "Leave learner.regularizers out, or use another relaxation."
        )
    combination = Combination(learner, relaxation, bilevel, rows, space)
    for part in parts:
        check = getattr(part, "reason_against", None)
        if check is not None and (reason := check(combination)):
            return f"regularizer {_name(part)}: {reason}"
    return ""


def without_effect(parts: Sequence[Regularizer], learner: Any) -> list[tuple[str, str]]:
    """Return the name of each regularizer that changes nothing with the settings ``learner``, and why."""
    combination = Combination(learner, None, False)
    found = [(_name(part), part.without_effect(combination)) for part in _having(parts, "without_effect")]
    return [(name, why) for name, why in found if why]


def _name(part: Regularizer) -> str:
    return getattr(getattr(part, "settings", None), "name", type(part).__name__)


def _having(parts: Sequence[Regularizer], member: str) -> list[Any]:
    return [part for part in parts if hasattr(part, member)]
