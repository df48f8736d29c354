"""DARTS as task learner, first order by default, with soft pruning (Elsken et al. 2020, arXiv 1911.11090, sections 3.2 and 3.3; Liu et al. 2019).

One run on one support set: start the head rows, step weights and alphas while the temperature falls, read the genotype off, go on with
the discrete network. No retraining at any point. Alphas step on scans of their own (bilevel), or with the weights from one backward pass
(single-level; Hou et al. 2021, arXiv 2108.08128, section 3): no gradient on top of the weights', and every scan trains the weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..config import LearnerSettings
from ..space import derive, expected_multiply_adds, genotype_multiply_adds, random_genotype_of_cost
from ..space import genotype as genotype_of
from ..space.choice import Relaxed
from ..space.network import SegmentationNet
from .episode import BatchLike, LearnerReport, NonFiniteLossError, Task
from .losses import segmentation_loss
from .optimizer import Group, Optimizer
from .registry import register_learner
from .relaxations import relaxation_of
from .runtime import Runtime
from .schedule import rate_factor, switch_step
from .second_order import second_order_gradient
from .support import Halves, split_scans, start_head, support_dice

StepHook = Callable[[int, float], None]


@dataclass
class Adapted:
    """A task learner's result: ``net`` (discrete after a switch, else the soft network) and what was done."""

    net: SegmentationNet
    report: LearnerReport


@register_learner("darts")
class DartsLearner:
    """DARTS with cross-fitted halves, temperature annealing and a switch to the discrete network."""

    def __init__(self, settings: LearnerSettings) -> None:
        self.settings = settings
        self.loss = segmentation_loss(settings.loss)
        self.relaxation = relaxation_of(settings)

    def run(
        self, net: SegmentationNet, task: Task, generator: np.random.Generator, runtime: Runtime, on_step: StepHook | None = None
    ) -> Adapted:
        """Return ``net`` adapted to ``task``; ``net`` holds the meta state and is changed in place.

        Also when the result is a discrete network: weights that it trained and alphas are then those of ``net``, too.
        Raises NonFiniteLossError when a loss is not finite.
        """
        start, given = time.perf_counter(), net
        s = self.settings
        report = LearnerReport(steps=s.steps, alpha=s.alpha, head=s.head)
        net.start_task(task.num_channels, task.num_organs)
        net.body.relax(Relaxed(self.relaxation))
        switch = switch_step(s) if net.alphas() else 0
        halves = split_scans(task.num_scans, s, generator) if switch > 0 and s.alpha == "adapt" and net.alphas() else None
        report.alpha_split = halves.kind if halves else "none"
        torch_rng = torch.Generator().manual_seed(int(generator.integers(2**62)))
        if switch == 0 and s.discretize and net.alphas():
            net = self._discrete(net, self._fixed_genotype(net, task, generator), report)
        if halves is None:
            if s.head == "closed_form":
                report.ridge_strength = start_head(net, task, range(task.num_scans), s.ridge_voxels, torch_rng, runtime)
            self._weight_steps(net, task, 0, s.steps, runtime, report, on_step)
        else:
            net = self._search(net, task, halves, switch, torch_rng, runtime, report, on_step)
        if net is not given:
            _copy_values(dict(given.body.named_parameters()), dict(net.body.named_parameters()))
        report.seconds = time.perf_counter() - start
        return Adapted(net, report)

    def _fixed_genotype(self, net: SegmentationNet, task: Task, generator: np.random.Generator) -> dict:
        chosen = genotype_of(net.body)
        if self.settings.alpha != "random":
            return chosen
        target = genotype_multiply_adds(chosen, task.view, task.strides)
        rng = torch.Generator().manual_seed(int(generator.integers(2**31)))
        return random_genotype_of_cost(net.body.settings, target, 0.1, task.view, task.strides, rng)

    def _search(
        self,
        net: SegmentationNet,
        task: Task,
        halves: Halves,
        switch: int,
        torch_rng: torch.Generator,
        runtime: Runtime,
        report: LearnerReport,
        on_step: StepHook | None,
    ) -> SegmentationNet:
        """Return the network after the alpha phase, ``switch`` steps long, and what follows it."""
        s = self.settings
        copies = [net, copy.deepcopy(net)] if halves.cross else [net]
        if s.head == "closed_form":
            for model, scans in zip(copies, halves.train, strict=False):
                report.ridge_strength = start_head(model, task, scans, s.ridge_voxels, torch_rng, runtime)
        optimizers = [_weight_optimizer(model, s) for model in copies]
        alphas = list(net.alphas().values())
        # decay beside the step, not in the gradient: Adam would make whole steps of it where a row has next to no gradient
        alpha_optimizer = torch.optim.AdamW(alphas, s.alpha_lr, betas=(s.beta1, s.beta2), weight_decay=s.alpha_decay)
        uniform_cost = _uniform_cost(net, task) if s.cost_weight else 1.0
        # a copy's weight batch serves the other copy's alpha; without a second copy, alpha's batches are drawn where it steps by them
        wants_other = [halves.cross or (s.bilevel and step % s.alpha_every == 0) for step in range(switch)]
        sides = [side for wanted in wants_other for side in ([halves.train[0], halves.other[0]] if wanted else [halves.train[0]])]
        stream = task.support.stream([(s.batch, side) for side in sides])
        for step in range(switch):
            progress = step / (switch - 1) if switch > 1 else 1.0  # of one step, the temperature is that of the end
            for model in copies:
                # a candidate that is not run has no gradient: single-level steps run all, bilevel ones do where they judge alphas
                model.body.relax(Relaxed(self.relaxation, progress, s.prune if s.discretize and s.bilevel else 0.0))
            own = next(stream)
            other = next(stream) if wants_other[step] else own
            due = step % s.alpha_every == 0
            if due and s.bilevel:
                self._alpha_step(copies, (other, own), alphas, alpha_optimizer, task, uniform_cost, runtime, report)
                for model in copies[1:]:
                    _copy_values(model.alphas(), net.alphas())
            together = AlphaGroup(alphas, alpha_optimizer, uniform_cost) if due and not s.bilevel else None
            losses = [
                self._weight_step(model, batch, optimizer, step, task, runtime, report, together)
                for model, batch, optimizer in zip(copies, (own, other), optimizers, strict=False)
            ]
            report.losses.append(sum(losses) / len(losses))
            if on_step:
                on_step(step, report.losses[-1])
        if halves.cross:
            # both copies left one start and few steps ago: their mean has seen every scan
            with torch.no_grad():
                for name, p in _trained(net).items():
                    p.lerp_(_trained(copies[1])[name], 0.5)
        _note_probabilities(net, report)
        return self._switch(net, task, switch, runtime, report, on_step) if s.discretize else net

    def _switch(
        self,
        supernet: SegmentationNet,
        task: Task,
        step: int,
        runtime: Runtime,
        report: LearnerReport,
        on_step: StepHook | None,
    ) -> SegmentationNet:
        """Return the discrete network that ``supernet`` stands for at ``step``, trained for the steps that are left."""
        soft = _checked(supernet, task, runtime, report)
        net = self._discrete(supernet, genotype_of(supernet.body), report)
        hard = _checked(net, task, runtime, report)
        report.dice_soft_at_switch, report.dice_discrete_at_switch, report.gap_at_switch = soft, hard, soft - hard
        self._weight_steps(net, task, step, self.settings.steps, runtime, report, on_step)
        _copy_values(dict(supernet.body.named_parameters()), dict(net.body.named_parameters()))
        report.gap_at_end = _checked(supernet, task, runtime, report) - _checked(net, task, runtime, report)
        return net

    def _alpha_step(
        self,
        copies: Sequence[SegmentationNet],
        batches: Sequence[BatchLike],
        alphas: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        task: Task,
        uniform_cost: float,
        runtime: Runtime,
        report: LearnerReport,
    ) -> None:
        """Step alpha along the mean gradient of each copy's loss on the scans that it does not train on.

        ``batches`` holds the one that judges the first copy and the one that it trains on; for a second copy they change roles.
        """
        s = self.settings
        if s.second_order:  # a difference of two gradients: bf16 would leave little but rounding of it
            runtime = replace(runtime, bfloat16=False)
        total: list[Tensor] | None = None
        loss = 0.0
        # every candidate is judged: one that is not run would have no gradient, and no way back
        pruned = [model.body.relaxed for model in copies]
        for model in copies:
            model.body.relax(replace(model.body.relaxed, prune=0.0))
        for model, batch, own in zip(copies, batches, reversed(batches), strict=False):
            rows, weights = list(model.alphas().values()), list(_trained(model).values())

            def judge(model: SegmentationNet = model, batch: BatchLike = batch) -> Tensor:
                value = self._loss(model, batch, task, runtime)
                return value + self._cost_penalty(model, task, uniform_cost) if s.cost_weight else value

            def train(model: SegmentationNet = model, batch: BatchLike = own) -> Tensor:
                return self._loss(model, batch, task, runtime)

            if s.second_order:
                grads, value = second_order_gradient(train, judge, weights, rows, s.lr)
            else:
                judged = judge()
                parts = torch.autograd.grad(judged, rows, allow_unused=True)
                grads = [torch.zeros_like(a) if g is None else g for a, g in zip(alphas, parts, strict=True)]
                value = float(judged.detach())
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
            loss += value / len(copies)
            report.gradient_evaluations += 4 if s.second_order else 1
        for model, value in zip(copies, pruned, strict=True):
            model.body.relax(value)
        assert total is not None
        report.alpha_losses.append(_finite(loss))
        for a, g in zip(alphas, total, strict=True):
            _check_finite(g)
            a.grad = g / len(copies)
        optimizer.step()

    def _weight_steps(
        self,
        net: SegmentationNet,
        task: Task,
        first: int,
        last: int,
        runtime: Runtime,
        report: LearnerReport,
        on_step: StepHook | None,
    ) -> None:
        """Train weights and task parameters on all support scans, from step ``first`` to ``last``.

        They end as the mean of the last steps' where ``average`` says so (SWA, Izmailov et al. 2018, arXiv 1803.05407, algorithm 1): one
        more copy of them in memory, and its update a step.
        """
        if last <= first:
            return
        optimizer = _weight_optimizer(net, self.settings)
        averaged = min(round(self.settings.average * self.settings.steps), last - first)
        means: list[Tensor] = []
        everything = tuple(range(task.num_scans))
        stream: Iterator[BatchLike] = task.support.stream([(self.settings.batch, everything)] * (last - first))
        for step in range(first, last):
            report.losses.append(self._weight_step(net, next(stream), optimizer, step, task, runtime, report))
            if averaged > 1 and step == last - averaged:
                means = [p.detach().clone() for p in optimizer.params]
            elif means:
                for p, mean in zip(optimizer.params, means, strict=True):
                    mean.lerp_(p.detach(), 1.0 / (step - last + averaged + 1))
            if on_step:
                on_step(step, report.losses[-1])
        with torch.no_grad():
            for p, mean in zip(optimizer.params, means, strict=False):  # none where nothing was averaged
                p.copy_(mean)

    def _weight_step(
        self,
        net: SegmentationNet,
        batch: BatchLike,
        optimizer: Optimizer,
        step: int,
        task: Task,
        runtime: Runtime,
        report: LearnerReport,
        together: AlphaGroup | None = None,
    ) -> float:
        """Step weights and task parameters, and the alphas of ``together`` from the same backward pass; return the loss."""
        s = self.settings
        optimizer.scale_rates(rate_factor(step, s))
        parameters = optimizer.params
        alphas = together.alphas if together else []
        loss = self._loss(net, batch, task, runtime)
        value = _finite(float(loss.detach()))
        # it has no gradient but of alphas
        aim = loss + self._cost_penalty(net, task, together.uniform_cost) if together and s.cost_weight else loss
        for p, g in zip([*parameters, *alphas], torch.autograd.grad(aim, [*parameters, *alphas], allow_unused=True), strict=True):
            p.grad = g
        # before the step: after the last one no loss would tell
        _check_finite(nn.utils.clip_grad_norm_(parameters, s.clip))
        for a in alphas:
            # one that nothing used decays all the same, as in a step of its own
            a.grad = torch.zeros_like(a) if a.grad is None else a.grad
            _check_finite(a.grad)
        optimizer.step()
        if together:
            together.optimizer.step()
            report.alpha_losses.append(value)
        report.gradient_evaluations += 1
        return value

    def _cost_penalty(self, net: SegmentationNet, task: Task, uniform_cost: float) -> Tensor:
        """Return the penalty on expected multiply-adds above the budget, of alphas alone."""
        s = self.settings
        cost = expected_multiply_adds(net.body, task.view, task.strides) / uniform_cost
        return s.cost_weight * torch.relu(cost / s.cost_budget - 1.0)

    def _loss(self, net: SegmentationNet, batch: BatchLike, task: Task, runtime: Runtime) -> Tensor:
        with runtime.autocast():
            logits = net(runtime.place(batch.images), batch.coords.to(runtime.device), task.strides)
        return self.loss(logits, batch.labels.to(runtime.device))

    def _discrete(self, net: SegmentationNet, genotype: dict, report: LearnerReport) -> SegmentationNet:
        """Return the discrete network of ``genotype`` with the weights that ``net`` has now."""
        report.genotype = genotype
        return net.with_body(derive(net.body, genotype))


@dataclass(frozen=True)
class AlphaGroup:
    """Alphas that step with the weights, their optimizer, and the cost that their penalty is measured by."""

    alphas: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    uniform_cost: float


def _checked(net: SegmentationNet, task: Task, runtime: Runtime, report: LearnerReport) -> float:
    """Return the Dice on the support's views, and note how long it took: the result would be the same without it."""
    begun = time.perf_counter()
    found = support_dice(net, task, runtime)
    report.check_seconds += time.perf_counter() - begun
    return found


def _trained(net: SegmentationNet) -> dict[str, nn.Parameter]:
    return {**net.weights(), **net.task_parameters()}


def _weight_optimizer(net: SegmentationNet, s: LearnerSettings) -> Optimizer:
    """Return a fresh optimizer of weights and task parameters: no state passes from task to task."""
    trained = _trained(net)
    head = [p for n, p in trained.items() if n.startswith(("head.", "task."))]
    body = [p for n, p in trained.items() if not n.startswith(("head.", "task."))]
    groups = [Group(body, s.lr, s.kernel_lr), Group(head, s.head_lr)]
    return Optimizer(groups, s.optimizer, (s.beta1, s.beta2), s.weight_decay)


def _copy_values(target: dict[str, nn.Parameter], source: dict[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)


def _uniform_cost(net: SegmentationNet, task: Task) -> float:
    """Return the expected multiply-adds of one view when every alpha is uniform."""
    uniform = copy.deepcopy(net.body)
    with torch.no_grad():
        for p in uniform.alphas().values():
            p.zero_()
        return float(expected_multiply_adds(uniform, task.view, task.strides))


def _note_probabilities(net: SegmentationNet, report: LearnerReport) -> None:
    tops = [float(p.detach().max()) for p in net.body.probabilities().values() if p.numel() > 1]
    report.top_probability_mean, report.top_probability_min = sum(tops) / len(tops), min(tops)


def _check_finite(gradient: Tensor) -> None:
    if not torch.isfinite(gradient).all():
        raise NonFiniteLossError("the gradient became infinite or not a number")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise NonFiniteLossError(f"the loss became {value}")
    return value
