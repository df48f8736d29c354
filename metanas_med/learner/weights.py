"""Steps on weights and task parameters: one optimizer per run, scheduled rates, the mean of the last steps as result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..space.narrow import leading
from ..space.network import SegmentationNet
from .base import Context, LearnerSettings
from .coarse import CoarseBatch, coarsen
from .episode import BatchLike, LearnerReport, NonFiniteLossError, Task
from .losses import Loss, batch_loss, segmentation_loss
from .optimizer import Group, Optimizer
from .schedule import rate_factor
from .stepped import Stepped, is_of_head, only_stepped, stepped, without_gradient
from .stepped import trained as trained

#: a pace may lengthen a run to this many times the steps that its settings name
PACE_MOST = 4


class WeightSettings(LearnerSettings):
    """Steps on weights and task parameters."""

    batch: int = Field(default=8, ge=1)  #: patches per step
    optimizer: Literal["adam", "sgd", "muon"] = "muon"  #: muon: kernels by Muon, the rest by Adam; alphas always use Adam
    lr: float = Field(default=2e-3, gt=0)  #: learning rate of weights
    kernel_lr: float = Field(default=2e-2, gt=0)  #: rate of kernels that Muon steps: five times the root mean square of a step
    head_lr: float = Field(default=2e-3, gt=0)  #: learning rate of task parameters and head rows
    lr_decay: Literal["none", "cosine", "cooldown"] = "cooldown"  #: cooldown: constant, then linear over the last steps
    cooldown: float = Field(default=0.3, gt=0, le=1)  #: share of the steps in which a cooldown lowers the rates
    average: float = Field(default=0.5, ge=0, lt=1)  #: share of last steps whose mean weights are the result
    beta1: float = Field(default=0.9, ge=0, lt=1)  #: first beta of Adam; momentum of SGD and Muon
    beta2: float = Field(default=0.99, ge=0, lt=1)  #: second beta of Adam
    weight_decay: float = Field(default=0.0, ge=0)  #: of weights and task parameters
    clip: float = Field(default=1.0, gt=0)  #: largest gradient norm
    rate: float = Field(default=1.0, gt=0)  #: factor of lr, kernel_lr and head_lr
    stepped: Stepped = "all"  #: parts that steps move: all, decoder (with the head), head; the others stay
    early: float = Field(default=0.0, ge=0, le=1)  #: share of first steps that cost less, by coarse and early_batch
    coarse: bool = True  #: early steps see views at half the resolution of the strided axes
    early_batch: int = Field(default=0, ge=0)  #: patches of an early step, at most batch; 0: batch

    def early_steps(self, steps: int) -> int:
        """Return how many of ``steps`` are early ones."""
        return round(self.early * steps)


@dataclass(frozen=True)
class JoinedAlphas:
    """Alphas that step with the weights, their optimizer, and the penalty that is added to their loss."""

    alphas: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    penalty: Callable[[SegmentationNet], Tensor] | None = None


class WeightSteps:
    """Weight steps of one run on ``task``; losses and counts go to ``report``.

    Memory: two moments per weight with Adam, one per kernel weight with Muon; one more copy for averaging.
    """

    def __init__(self, settings: WeightSettings, task: Task, context: Context, report: LearnerReport) -> None:
        self.settings, self.task, self.context, self.report = settings, task, context, report
        self._criterion = segmentation_loss()

    def loss(self, net: Callable[..., Tensor], batch: BatchLike, float32: bool = False) -> Tensor:
        """Return the loss of ``net`` on ``batch``, a scalar; ``float32``: without autocast."""
        return forward_loss(net, batch, self.task, self.context, self._criterion, float32)

    def optimizer(self, net: SegmentationNet) -> Optimizer:
        """Return a new optimizer of weights and task parameters; no state carries over between tasks."""
        s, parameters = self.settings, stepped(net, self.settings.stepped)
        head = [p for n, p in parameters.items() if is_of_head(n)]
        body = [p for n, p in parameters.items() if not is_of_head(n)]
        groups = [Group(body, s.lr * s.rate, s.kernel_lr * s.rate), Group(head, s.head_lr * s.rate)]
        return Optimizer(groups, s.optimizer, (s.beta1, s.beta2), s.weight_decay)

    def batch_size(self, step: int) -> int:
        """Return the number of patches of ``step``."""
        s = self.settings
        return min(s.early_batch or s.batch, s.batch) if step < s.early_steps(s.steps) else s.batch

    def seen(self, net: SegmentationNet, batch: BatchLike, step: int) -> BatchLike:
        """Return ``batch`` as ``step`` sees it: coarse in early steps."""
        s = self.settings
        return coarsen(batch, self.task.strides, net.body.dims) if s.coarse and step < s.early_steps(s.steps) else batch

    def step(
        self, net: SegmentationNet, batch: BatchLike, optimizer: Optimizer, step: int, joined: JoinedAlphas | None = None
    ) -> float:
        """Step weights and task parameters, and the alphas of ``joined`` from the same backward pass; return the loss."""
        optimizer.scale_rates(rate_factor(step, self.settings))
        parameters = optimizer.params
        alphas = list(joined.alphas) if joined else []
        # alphas that have steps of their own need no gradient here, and weighted outputs need not be saved for it
        with without_gradient(() if joined else net.alphas().values()):
            value = self._gradients(net, batch, [*parameters, *alphas], joined)
        # checked before the step, because no loss follows the last step
        check_finite(nn.utils.clip_grad_norm_(parameters, self.settings.clip))
        for a in alphas:
            # an unused row still decays, as in a separate alpha step
            a.grad = torch.zeros_like(a) if a.grad is None else a.grad
            check_finite(a.grad)
        optimizer.step()
        if joined:
            joined.optimizer.step()
            self.report.alpha_losses.append(value)
        return value

    def _gradients(
        self, net: SegmentationNet, batch: BatchLike, every: Sequence[nn.Parameter], joined: JoinedAlphas | None
    ) -> float:
        """Set the gradients of ``every`` parameter, summed over the paths of the step; return the mean loss. None: not used."""
        before, values = net.body.relaxed, list[float]()
        for number, path in enumerate(net.body.paths()):
            if path is not None:
                net.body.relax(replace(before, fixed=path))
            loss = self.loss(net, batch)
            values.append(finite(float(loss.detach())))
            # the penalty has gradients of alphas only
            aim = loss + joined.penalty(net) if joined and joined.penalty else loss
            for p, g in zip(every, torch.autograd.grad(aim, every, allow_unused=True), strict=True):
                p.grad = g if number == 0 or p.grad is None else p.grad if g is None else p.grad + g
        net.body.relax(before)
        self.report.gradient_evaluations += len(values)
        return sum(values) / len(values)

    def train(self, net: SegmentationNet, first: int, last: int) -> None:
        """Train on all support scans from step ``first`` to ``last``, or to where the context's pace moves the end.

        With ``average``, the result is the mean over the last steps (SWA, Izmailov et al. 2018, arXiv 1803.05407, algorithm 1).
        """
        if last <= first:
            return
        s, optimizer, pace = self.settings, self.optimizer(net), self.context.pace
        means: list[Tensor] = []
        num_averaged = 0
        # a pace may lengthen the run; requests that nobody takes cost nothing
        num_requests = (last - first) * (PACE_MOST if pace else 1)
        scans = tuple(range(self.task.num_scans))
        stream = self.task.support.stream([(self.batch_size(step), scans) for step in range(first, first + num_requests)])
        step = first
        with only_stepped([net], s.stepped, alphas=False):
            while step < last:
                if pace and (total := min(max(pace(step, last), step + 1), first + num_requests)) != last:
                    last = self.report.steps = total
                    self.settings = s = s.model_copy(update={"steps": total})
                averaged = min(round(s.average * s.steps), last - first)
                self.note(step, self.step(net, self.seen(net, next(stream), step), optimizer, step))
                if not means and averaged > 1 and step >= last - averaged:
                    means, num_averaged = [p.detach().clone() for p in optimizer.params], 1
                elif means:
                    num_averaged += 1
                    for p, mean in zip(optimizer.params, means, strict=True):
                        mean.lerp_(p.detach(), 1.0 / num_averaged)
                step += 1
        with torch.no_grad():
            for p, mean in zip(optimizer.params, means, strict=False):  # empty without averaging
                p.copy_(mean)

    def note(self, step: int, loss: float) -> None:
        """Add a step's loss to the report, and call the context's hook."""
        self.report.losses.append(loss)
        if self.context.on_step:
            self.context.on_step(step, loss)


def forward_loss(
    net: Callable[..., Tensor],
    batch: BatchLike,
    task: Task,
    context: Context,
    criterion: Loss,
    float32: bool = False,
) -> Tensor:
    """Return ``criterion`` of the logits of ``net`` on ``batch``, a scalar; a coarse batch brings its own strides."""
    runtime = context.runtime
    strides = batch.strides if isinstance(batch, CoarseBatch) else task.strides
    with runtime.autocast(not float32):
        logits = net(runtime.place(batch.images), batch.coords.to(runtime.device), strides)
    return batch_loss(criterion, logits, batch.labels, batch.missing)


def copy_values(target: dict[str, nn.Parameter], source: dict[str, nn.Parameter]) -> None:
    """Copy the values of ``source`` into the parameters of the same names of ``target``, or into their leading parts."""
    with torch.no_grad():
        for name, value in source.items():
            leading(target[name], value.shape).copy_(value)


def check_finite(gradient: Tensor) -> None:
    """Raise NonFiniteLossError if a gradient is not finite."""
    if not torch.isfinite(gradient).all():
        raise NonFiniteLossError("the gradient became infinite or not a number")


def finite(value: float) -> float:
    """Return ``value``; NonFiniteLossError if it is not finite."""
    if not math.isfinite(value):
        raise NonFiniteLossError(f"the loss became {value}")
    return value
