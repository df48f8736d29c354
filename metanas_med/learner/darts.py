"""DARTS as task learner, from four exchangeable parts.

After Liu et al. 2019, arXiv 1806.09055, and Elsken et al. 2020, arXiv 1911.11090, section 3.

A run initialises the head rows and steps weights and alphas while the relaxation hardens. It then fixes the genotype and trains
the discrete network from the weights it has; nothing is retrained. A relaxation weighs the options, an alpha gradient says how
alphas step, regularizers add to their loss, and a discretizer ends the search. A published learner is a combination of these.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..space import derive, genotype, genotype_multiply_adds, random_genotype_of_cost
from ..space.choice import Relaxed
from ..space.network import SegmentationNet
from .alpha_gradients import ALPHA_GRADIENTS, Halves, Loss
from .base import Adapted, Context, register_learner
from .darts_settings import DartsSettings
from .discretizers import DISCRETIZERS
from .episode import BatchLike, LearnerReport, Task
from .evidence import undecided
from .hooks import SearchHooks
from .regularizers import REGULARIZERS
from .relaxations import RELAXATIONS
from .stepped import at_values, only_stepped, stepped, trained
from .support import start_head, support_dice
from .weights import JoinedAlphas, WeightSteps, check_finite, copy_values, finite


@register_learner(
    "darts",
    settings=DartsSettings,
    source="Liu et al. 2019, arXiv 1806.09055",
    refuses="meta learners that need a query gradient",
)
class DartsLearner:
    """A differentiable search: relaxation, alpha gradient, regularizers and discretizer are separate parts.

    Cost per step: one gradient of the supernet, plus those of the alpha gradient (see ``metanas-med list alpha-gradients``).
    """

    gives_query_gradient = False

    def __init__(self, settings: DartsSettings) -> None:
        self.settings = s = settings
        self.relaxation = RELAXATIONS.build(s.relaxation.name, s.relaxation)
        self.alpha_gradient = ALPHA_GRADIENTS.build(s.alpha_gradient.name, s.alpha_gradient)
        self.regularizers = [REGULARIZERS.build(part.name, part) for part in s.regularizers]
        self.discretizer = DISCRETIZERS.build(s.discretizer.name, s.discretizer)

    def run(self, net: SegmentationNet, task: Task, context: Context) -> Adapted:
        """Return ``net`` adapted to ``task``; ``net`` holds the meta state and is changed in place.

        ``net`` also receives alphas and the weights that a discrete result trained. Raises NonFiniteLossError if a loss is not
        finite.
        """
        if self.settings.alpha == "auto":
            return DartsLearner(self.settings.decided(net.body)[0]).run(net, task, context)
        start, given, s = time.perf_counter(), net, self.settings
        report = LearnerReport(steps=s.steps, alpha=s.alpha, head=s.head)
        net.start_task(task.num_channels, task.num_organs)
        stepped(net, s.stepped)  # refuses what the body cannot do, before any step
        net.body.relax(Relaxed(self.relaxation))
        searched = s.alpha == "adapt" and bool(net.alphas())
        if searched and (reason := s.reason_against(net.body.rows())):
            raise ConfigError(reason)
        switch = self.discretizer.search_steps(s.steps) if searched else 0
        halves = self.alpha_gradient.split(task.num_scans, context.generator) if switch > 0 else None
        report.alpha_split = halves.kind if halves else "none"
        torch_rng = torch.Generator().manual_seed(int(context.generator.integers(2**62)))
        steps = WeightSteps(s, task, context, report)
        if halves is None:
            # a space of sampled rows alone has no alphas, and a network of its first options to take out of the supernet
            if net.body.picks is None and net.body.space.rows() and self.discretizer.discretizes:
                net = self._discrete(net, self._fixed_genotype(net, task, context), report)
            if s.head == "closed_form":
                report.ridge_strength = start_head(net, task, range(task.num_scans), s.ridge_voxels, torch_rng, context.runtime)
            steps.train(net, 0, s.steps)
        else:
            with only_stepped([net], s.stepped, alphas=True):
                net = self._search(net, task, context, halves, switch, torch_rng, steps)
        if net is not given:
            copy_values(dict(given.body.named_parameters()), dict(net.body.named_parameters()))
        report.seconds = time.perf_counter() - start
        return Adapted(net, report)

    def _fixed_genotype(self, net: SegmentationNet, task: Task, context: Context) -> dict[str, Any]:
        """Return the architecture of a run that does not search."""
        chosen = genotype(net.body)
        if self.settings.alpha != "random":
            return chosen
        target = genotype_multiply_adds(chosen, task.view, task.strides)
        rng = torch.Generator().manual_seed(int(context.generator.integers(2**31)))
        return random_genotype_of_cost(net.body.settings, target, 0.1, task.view, task.strides, rng)

    def _search(
        self,
        net: SegmentationNet,
        task: Task,
        context: Context,
        halves: Halves,
        switch: int,
        torch_rng: torch.Generator,
        steps: WeightSteps,
    ) -> SegmentationNet:
        """Return the network after ``switch`` steps of search and the training that follows."""
        s, report = self.settings, steps.report
        copies = [net, copy.deepcopy(net)] if halves.cross else [net]
        if s.head == "closed_form":
            for model, scans in zip(copies, halves.train, strict=False):
                report.ridge_strength = start_head(model, task, scans, s.ridge_voxels, torch_rng, context.runtime)
        optimizers = [steps.optimizer(model) for model in copies]
        alphas = list(net.alphas().values())
        # decoupled decay: as a part of the gradient, Adam would scale it to full steps where a row has almost no gradient
        alpha_optimizer = torch.optim.AdamW(alphas, s.alpha_lr, betas=(s.beta1, s.beta2), weight_decay=s.alpha_decay)
        hooks = SearchHooks(self.regularizers, net, task)
        penalty = hooks.penalty
        bilevel = self.alpha_gradient.bilevel
        # the weight batch of one copy judges the alphas of the other; a single copy draws judging batches for alpha steps
        first = math.floor(s.alpha_from * switch)
        dues = [step >= first and step % s.alpha_every == 0 for step in range(switch)]
        wants_other = [halves.cross or (bilevel and due) for due in dues]
        sides = [side for wanted in wants_other for side in ([halves.train[0], halves.other[0]] if wanted else [halves.train[0]])]
        sizes = [steps.batch_size(step) for step, wanted in enumerate(wants_other) for _ in range(1 + wanted)]
        stream = task.support.stream(list(zip(sizes, sides, strict=True)))
        path = [_rows_of(net)]
        for step in range(switch):
            progress = step / (switch - 1) if switch > 1 else 1.0  # a one-step search uses the final progress
            # a skipped option has no gradient: single-level steps run all options, and so do the alpha steps of a bilevel search
            prune = s.relaxation.prune if self.discretizer.discretizes and bilevel else 0.0
            for model in copies:
                model.body.relax(hooks.relaxed(Relaxed(self.relaxation, progress, prune, torch_rng)))
            own = steps.seen(net, next(stream), step)
            other = steps.seen(net, next(stream), step) if wants_other[step] else own
            due = dues[step]
            if due and bilevel:
                self._alpha_step(copies, (other, own), alphas, alpha_optimizer, penalty, steps)
                for model in copies[1:]:
                    copy_values(model.alphas(), net.alphas())
            joined = JoinedAlphas(alphas, alpha_optimizer, penalty) if due and not bilevel else None
            losses = []
            for model, batch, optimizer in zip(copies, (own, other), optimizers, strict=False):
                with hooks.perturbed(model, partial(steps.loss, model, batch), torch_rng):
                    losses.append(steps.step(model, batch, optimizer, step, joined))
            steps.note(step, sum(losses) / len(losses))
            path += [_rows_of(net)] if due else []
            if due and hooks.ends(net, partial(steps.loss, net, other, float32=True)):
                switch = step + 1
                break
        report.gradient_evaluations += hooks.evaluations
        paths = {name: torch.stack([rows[name] for rows in path]) for name in path[0]}
        report.num_rows, report.undecided = len(paths), undecided(paths, net.body.relaxed.temperature())
        if halves.cross:
            # both copies had the same weights a few steps ago; their mean has seen every scan
            with torch.no_grad():
                for name, p in trained(net).items():
                    p.lerp_(trained(copies[1])[name], 0.5)
        net.body.relax(replace(net.body.relaxed, generator=None, adjust=None))  # what is reported and kept has no noise
        _note_probabilities(net, report)
        return self._switch(net, task, context, switch, steps)

    def _alpha_step(
        self,
        copies: Sequence[SegmentationNet],
        batches: Sequence[BatchLike],
        alphas: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        penalty: Callable[[SegmentationNet], Tensor] | None,
        steps: WeightSteps,
    ) -> None:
        """Step alphas along the mean gradient of the copies' losses on their judging batches.

        ``batches``: the one that judges the first copy, and the one that it trains on; a second copy swaps them.
        """
        total: list[Tensor] | None = None
        loss, part = 0.0, self.alpha_gradient
        for model, batch, own in zip(copies, batches, reversed(batches), strict=False):
            before = model.body.relaxed
            # every option is judged: a skipped one would have no gradient and could never recover
            model.body.relax(replace(before, prune=0.0, judging=True))
            moving, train, judge = self._losses(model, batch, own, penalty, steps)
            grads, value = part.take(train, judge, moving, list(model.alphas().values()), self.settings.lr * self.settings.rate)
            model.body.relax(before)
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
            loss += value / len(copies)
            steps.report.gradient_evaluations += part.evaluations
        assert total is not None
        steps.report.alpha_losses.append(finite(loss))
        for a, g in zip(alphas, total, strict=True):
            check_finite(g)
            a.grad = g / len(copies)
        after = getattr(self.relaxation, "after_step", None)
        old = _rows_of(copies[0]) if after else {}
        optimizer.step()
        if after:
            rows = {name: getattr(copies[0].body.alphas, name) for name in old}
            after(rows, old, {name: row.grad != 0 for name, row in rows.items()})

    def _losses(
        self,
        model: SegmentationNet,
        batch: BatchLike,
        own: BatchLike,
        penalty: Callable[[SegmentationNet], Tensor] | None,
        steps: WeightSteps,
    ) -> tuple[list[nn.Parameter], Loss, Loss]:
        """Return the weights of ``model`` that step, its loss on its ``own`` batch, and that of alphas on the judging ``batch``."""
        moving, exact = stepped(model, self.settings.stepped), self.alpha_gradient.exact
        noise = model.body.relaxed.generator
        drawn = noise.get_state() if noise else None

        def loss(values: Sequence[Tensor] | None, seen: BatchLike) -> Tensor:
            if noise is not None and drawn is not None:  # all losses of one alpha step see the same draws: differences need it
                noise.set_state(drawn)
            return steps.loss(at_values(model, moving, values), seen, exact)

        def train(values: Sequence[Tensor] | None = None) -> Tensor:
            return loss(values, own)

        def judge(values: Sequence[Tensor] | None = None) -> Tensor:
            value = loss(values, batch)
            return value + penalty(model) if penalty else value

        return list(moving.values()), train, judge

    def _switch(self, supernet: SegmentationNet, task: Task, context: Context, step: int, steps: WeightSteps) -> SegmentationNet:
        """Return the discrete network that ``supernet`` encodes at ``step``, trained for the remaining steps; or the soft one."""
        report = steps.report
        if not self.discretizer.discretizes:
            return supernet
        soft = _checked(supernet, task, context, report)
        found = self.discretizer.genotype(supernet, task, context)
        assert found is not None
        net = self._discrete(supernet, found, report)
        hard = _checked(net, task, context, report)
        report.dice_soft_at_switch, report.dice_discrete_at_switch, report.gap_at_switch = soft, hard, soft - hard
        steps.train(net, step, self.settings.steps)
        copy_values(dict(supernet.body.named_parameters()), dict(net.body.named_parameters()))
        report.gap_at_end = _checked(supernet, task, context, report) - _checked(net, task, context, report)
        return net

    def _discrete(self, net: SegmentationNet, found: dict[str, Any], report: LearnerReport) -> SegmentationNet:
        """Return the discrete network of the genotype ``found`` with the weights that ``net`` has now."""
        report.genotype = found
        return net.with_body(derive(net.body, found))


def _checked(net: SegmentationNet, task: Task, context: Context, report: LearnerReport) -> float:
    """Return the Dice on the support's views and add the seconds to the report; only the report uses it."""
    start = time.perf_counter()
    found = support_dice(net, task, context.runtime)
    report.check_seconds += time.perf_counter() - start
    return found


def _rows_of(net: SegmentationNet) -> dict[str, Tensor]:
    """Return copies of the rows of alphas by the names of ``Body.rows``."""
    return {name.removeprefix("body.alphas."): row.detach().clone() for name, row in net.alphas().items()}


def _note_probabilities(net: SegmentationNet, report: LearnerReport) -> None:
    tops = [float(p.detach().max()) for p in net.body.probabilities().values() if p.numel() > 1]
    report.top_probability_mean, report.top_probability_min = sum(tops) / len(tops), min(tops)
