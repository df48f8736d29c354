"""Choice by perturbation, DARTS-PT: an option is worth what the soft network loses without it, whatever its alpha is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ...space import genotype
from ...space.base import Row
from ...space.candidate_sets import choosable
from ...space.choice import Choice, Relaxed
from ...space.network import SegmentationNet
from ..base import Context
from ..episode import Task
from ..losses import segmentation_loss
from ..stepped import trained
from ..weights import check_finite, finite, forward_loss
from .base import DiscretizerSettings, register_discretizer


class PerturbationSettings(DiscretizerSettings):
    """When the search ends, and how the network is tuned between two decisions."""

    name: str = "perturbation"
    phase: float = Field(default=0.5, ge=0, le=1)  #: share of the steps that search
    max_steps: int = Field(default=10, ge=0)  #: maximum number of search steps; 0: no limit
    tune: int = Field(default=1, ge=0)  #: weight steps after each decision, in addition to the steps of the run
    lr: float = Field(default=2e-4, gt=0)  #: learning rate of these steps, by Adam (published: a tenth of the search's)
    batch: int = Field(default=2, ge=1)  #: patches of such a step


@register_discretizer(
    "perturbation",
    settings=PerturbationSettings,
    source="DARTS-PT, Wang et al. 2021, arXiv 2108.04392",
    costs="a forward pass per option of every row and support view, and `tune` gradients of the supernet per row",
)
class Perturbation:
    """Row by row in random order, the option whose absence raises the loss on the support's views most; inputs of nodes come last.

    Decided rows stay at their option, and the soft network is tuned for a few steps after each decision. The views are those of all
    support scans: a learner that splits the support has seen some of them in training. With R options in all rows, N rows and k views
    the cost is R k forward passes and N ``tune`` gradients of the supernet.
    """

    discretizes = True

    def __init__(self, settings: PerturbationSettings) -> None:
        self.settings = settings

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search."""
        return min(math.ceil(self.settings.phase * steps), self.settings.max_steps or steps)

    def genotype(self, net: SegmentationNet, task: Task, context: Context) -> dict[str, Any] | None:
        """Return the architecture; weights and task parameters of ``net`` are tuned in place, alphas stay."""
        before, rows = net.body.relaxed, net.body.rows()
        alphas = {name: row.tolist() for name, row in net.body.probabilities().items()}
        decided: dict[str, int] = {}
        tuning = _Tuning(self.settings, net, task, context)
        try:
            for name in _order(rows, context):
                losses = {}
                for option in choosable(rows[name]):
                    net.body.relax(masked(before, decided, (name, option)))
                    losses[option] = views_loss(net, task, context)
                decided[name] = max(losses, key=lambda k: (losses[k], alphas[name][k]))  # noqa: B023
                net.body.relax(masked(before, decided))
                tuning.steps()
            net.body.relax(masked(before, decided))
            return genotype(net.body)
        finally:
            net.body.relax(before)


def masked(relaxed: Relaxed, decided: Mapping[str, int], without: tuple[str, int] | None = None) -> Relaxed:
    """Return ``relaxed`` with the rows of ``decided`` at their options, and no weight on the option ``without`` (row, option).

    The other options of a row keep their proportions, and the sum of the row.
    """

    def adjust(choice: Choice, progress: float) -> Choice:
        choice = relaxed.adjust(choice, progress) if relaxed.adjust else choice
        rows = dict(choice.rows)
        for name, option in decided.items():
            rows[name] = torch.zeros_like(rows[name]).index_fill(0, torch.tensor([option], device=rows[name].device), 1.0)
        if without is not None:
            rows[without[0]] = left_out(rows[without[0]], without[1])
        return replace(choice, rows=rows, logits=None)

    # an option of weight zero is not run
    return replace(relaxed, adjust=adjust, prune=1e-9, generator=None)


def left_out(row: Tensor, option: int) -> Tensor:
    """Return weights of options without ``option``: the others are scaled to the same sum; equal where they have none."""
    rest = row.clone()
    rest[option] = 0.0
    total = rest.sum()
    if float(total.detach()) > 1e-12:
        return rest * (row.sum() / total)
    rest = torch.ones_like(row)
    rest[option] = 0.0
    return rest * (row.sum() / rest.sum().clamp(min=1.0))


@torch.no_grad()
def views_loss(net: SegmentationNet, task: Task, context: Context) -> float:
    """Return the mean loss of ``net`` on the fixed views of all support scans."""
    criterion, total = segmentation_loss(), 0.0
    for scan in range(task.num_scans):
        total += finite(float(forward_loss(net, task.support.views(scan), task, context, criterion)))
    return total / task.num_scans


def _order(rows: Mapping[str, Row], context: Context) -> list[str]:
    """Return the rows in random order: operations and gates first, then the inputs of nodes.

    Rows of type ``edges`` are no decision of their own: they weigh inputs, and the genotype takes them into account.
    """
    found: list[str] = []
    for types in (("one", "gate"), ("pair",)):
        names = [name for name, row in rows.items() if row.type in types and len(row.options) > 1]
        found += [names[int(i)] for i in context.generator.permutation(len(names))]
    return found


class _Tuning:
    """Weight steps of the soft network between two decisions."""

    def __init__(self, settings: PerturbationSettings, net: SegmentationNet, task: Task, context: Context) -> None:
        self.settings, self.net, self.task, self.context = settings, net, task, context
        self.weights: Sequence[nn.Parameter] = [p for p in trained(net).values() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.weights, settings.lr)
        requests = len(net.body.rows()) * settings.tune
        self.stream = task.support.stream([(settings.batch, tuple(range(task.num_scans)))] * requests)

    def steps(self) -> None:
        """Take the steps of one decision; alphas do not move."""
        criterion = segmentation_loss()
        for _ in range(self.settings.tune):
            loss = forward_loss(self.net, next(self.stream), self.task, self.context, criterion)
            finite(float(loss.detach()))
            for p, g in zip(self.weights, torch.autograd.grad(loss, self.weights, allow_unused=True), strict=True):
                p.grad = g
            check_finite(nn.utils.clip_grad_norm_(self.weights, 1.0))
            self.optimizer.step()
