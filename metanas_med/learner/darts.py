"""DARTS as task learner, from four exchangeable parts.

After Liu et al. 2019, arXiv 1806.09055, and Elsken et al. 2020, arXiv 1911.11090, section 3.

A run initialises the head rows and steps weights and alphas while the relaxation hardens. It then fixes the genotype and trains
the discrete network from the weights it has; nothing is retrained. A relaxation weighs the options, an alpha gradient says how
alphas step, regularizers add to their loss, and a discretizer ends the search. A published learner is a combination of these.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from ..config import ByName
from ..space import derive, genotype, genotype_multiply_adds, random_genotype_of_cost
from ..space.base import Body
from ..space.choice import Relaxed
from ..space.network import SegmentationNet
from .alpha_gradients import ALPHA_GRADIENTS, AlphaGradientSettings, Halves, SingleLevelSettings
from .alpha_rule import alpha_reason
from .base import Adapted, Context, register_learner
from .discretizers import DISCRETIZERS, ArgmaxSettings, DiscretizerSettings, NoneSettings
from .episode import BatchLike, LearnerReport, Task
from .evidence import undecided
from .regularizers import REGULARIZERS, RegularizerSettings
from .relaxations import RELAXATIONS, RelaxationSettings, SoftmaxSettings
from .stepped import only_stepped, stepped, trained
from .support import start_head, support_dice
from .weights import JoinedAlphas, WeightSettings, WeightSteps, check_finite, copy_values, finite

log = logging.getLogger(__name__)


class DartsSettings(WeightSettings):
    """A differentiable search on one support set, and the training of what it finds."""

    name: str = "darts"
    #: adapt: search; frozen: the meta-learned architecture; random: one of equal cost; auto: adapt or frozen (alpha_rule.py)
    alpha: Literal["adapt", "frozen", "random", "auto"] = "adapt"
    alpha_lr: float = Field(default=0.05, gt=0)  #: learning rate of alphas, by AdamW
    alpha_decay: float = Field(default=1e-3, ge=0)  #: weight decay of alphas
    alpha_every: int = Field(default=1, ge=1)  #: weight steps per alpha step
    relaxation: Annotated[SerializeAsAny[RelaxationSettings], ByName.of(RELAXATIONS)] = SoftmaxSettings(tau_start=0.2)
    alpha_gradient: Annotated[SerializeAsAny[AlphaGradientSettings], ByName.of(ALPHA_GRADIENTS)] = SingleLevelSettings()
    #: penalties on alphas, such as [{name: cost, weight: 1, budget: 0.5}]
    regularizers: tuple[Annotated[SerializeAsAny[RegularizerSettings], ByName.of(REGULARIZERS)], ...] = ()
    discretizer: Annotated[SerializeAsAny[DiscretizerSettings], ByName.of(DISCRETIZERS)] = ArgmaxSettings()
    head: Literal["closed_form", "meta_row"] = "closed_form"  #: initial rows: ridge regression, or the meta-learned row
    ridge_voxels: int = Field(default=3000, ge=16)  #: support voxels per scan

    @property
    def keeps_alphas(self) -> bool:
        """Whether alphas do not move: the architecture is the meta-learned one, or a random one."""
        return self.alpha not in ("adapt", "auto")

    def decided(self, body: Body) -> tuple[DartsSettings, str]:
        """Return these settings with ``auto`` replaced by adapt or frozen for a supernet with its alphas, and the reason."""
        if self.alpha != "auto":
            return self, "as set"
        alphas = {name.removeprefix("alphas."): row for name, row in body.alphas().items()}
        times = math.ceil(self.search_steps(self.steps) / self.alpha_every)
        search, reason = alpha_reason(body.rows(), alphas, self.alpha_lr, times, self.soft)
        return self.model_copy(update={"alpha": "adapt" if search else "frozen"}), reason

    def fixed(self, discrete: bool) -> DartsSettings:
        """Return these settings with alphas frozen, soft or ``discrete``."""
        end = ArgmaxSettings() if discrete else NoneSettings()
        return self.model_copy(update={"alpha": "frozen", "discretizer": end})

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search an architecture."""
        return 0 if self.keeps_alphas else DISCRETIZERS.build(self.discretizer.name, self.discretizer).search_steps(steps)

    def extra_evaluations(self, steps: int) -> int:
        """Return the number of alpha gradients in ``steps``, for one copy of the weights."""
        part = ALPHA_GRADIENTS.build(self.alpha_gradient.name, self.alpha_gradient)
        return part.evaluations * math.ceil(self.search_steps(steps) / self.alpha_every)

    @property
    def soft(self) -> bool:
        """Whether the network stays soft to the end."""
        return self.discretizer.name == "none"

    @model_validator(mode="after")
    def _random_is_discrete(self) -> DartsSettings:
        if self.alpha == "random" and self.soft:
            raise ValueError("alpha random draws a discrete architecture: it needs a discretizer")
        return self

    @model_validator(mode="after")
    def _warns_of_ignored_values(self) -> DartsSettings:
        """Log a warning for each non-default value that has no effect."""
        only_head = self.stepped == "head"
        joint, soft_search = self.alpha_gradient.name == "single_level", self.soft and not self.keeps_alphas
        ignored: dict[str, Any] = {
            "lr": only_head and self.alpha_gradient.name != "second_order" and "stepped is head",
            "kernel_lr": "stepped is head" if only_head else self.optimizer != "muon" and "optimizer is not muon",
            "early_batch": not self.early and "early is 0",
            "coarse": not self.early and "early is 0",
            "early": not (self.coarse or self.early_batch) and "coarse is false and early_batch is 0",
            "cooldown": self.lr_decay != "cooldown" and f"lr_decay is {self.lr_decay}",
            "average": self.average and soft_search and "only steps after the switch to a discrete network are averaged",
        }
        for name, why in ignored.items():
            if why and getattr(self, name) != type(self).model_fields[name].default:
                log.warning("setting %s %s has no effect: %s", name, getattr(self, name), why)
        if (joint or self.soft) and self.relaxation.prune != type(self.relaxation).model_fields["prune"].default:
            why = "alpha_gradient is single_level" if joint else "discretizer is none"
            log.warning("setting relaxation.prune %s has no effect: %s", self.relaxation.prune, why)
        return self


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
        switch = self.discretizer.search_steps(s.steps) if searched else 0
        halves = self.alpha_gradient.split(task.num_scans, context.generator) if switch > 0 else None
        report.alpha_split = halves.kind if halves else "none"
        torch_rng = torch.Generator().manual_seed(int(context.generator.integers(2**62)))
        steps = WeightSteps(s, task, context, report)
        if halves is None:
            if net.alphas() and self.discretizer.discretizes:
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
        optimizers = [steps.optimizer(model, s.keep_norms) for model in copies]
        alphas = list(net.alphas().values())
        # decoupled decay: as a part of the gradient, Adam would scale it to full steps where a row has almost no gradient
        alpha_optimizer = torch.optim.AdamW(alphas, s.alpha_lr, betas=(s.beta1, s.beta2), weight_decay=s.alpha_decay)
        penalty = self._penalty(net, task)
        bilevel = self.alpha_gradient.bilevel
        # the weight batch of one copy judges the alphas of the other; a single copy draws judging batches for alpha steps
        wants_other = [halves.cross or (bilevel and step % s.alpha_every == 0) for step in range(switch)]
        sides = [side for wanted in wants_other for side in ([halves.train[0], halves.other[0]] if wanted else [halves.train[0]])]
        sizes = [steps.batch_size(step) for step, wanted in enumerate(wants_other) for _ in range(1 + wanted)]
        stream = task.support.stream(list(zip(sizes, sides, strict=True)))
        path = [_rows_of(net)]
        for step in range(switch):
            progress = step / (switch - 1) if switch > 1 else 1.0  # a one-step search uses the final progress
            # a skipped option has no gradient: single-level steps run all options, and so do the alpha steps of a bilevel search
            prune = s.relaxation.prune if self.discretizer.discretizes and bilevel else 0.0
            for model in copies:
                model.body.relax(Relaxed(self.relaxation, progress, prune, torch_rng))
            own = steps.seen(net, next(stream), step)
            other = steps.seen(net, next(stream), step) if wants_other[step] else own
            due = step % s.alpha_every == 0
            if due and bilevel:
                self._alpha_step(copies, (other, own), alphas, alpha_optimizer, penalty, steps)
                for model in copies[1:]:
                    copy_values(model.alphas(), net.alphas())
            joined = JoinedAlphas(alphas, alpha_optimizer, penalty) if due and not bilevel else None
            losses = [
                steps.step(model, batch, optimizer, step, joined)
                for model, batch, optimizer in zip(copies, (own, other), optimizers, strict=False)
            ]
            steps.note(step, sum(losses) / len(losses))
            path += [_rows_of(net)] if due else []
        report.num_rows, report.undecided = len(path[0]), undecided({n: torch.stack([p[n] for p in path]) for n in path[0]})
        if halves.cross:
            # both copies had the same weights a few steps ago; their mean has seen every scan
            with torch.no_grad():
                for name, p in trained(net).items():
                    p.lerp_(trained(copies[1])[name], 0.5)
        net.body.relax(replace(net.body.relaxed, generator=None))  # what is reported and kept has no noise
        _note_probabilities(net, report)
        return self._switch(net, task, context, switch, steps)

    def _penalty(self, net: SegmentationNet, task: Task) -> Callable[[SegmentationNet], Tensor] | None:
        """Return the sum of the regularizers' penalties; None without any."""
        penalties = [part.on(net, task) for part in self.regularizers]
        if not penalties:
            return None
        return lambda model: torch.stack([penalty(model) for penalty in penalties]).sum()

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
            model.body.relax(replace(before, prune=0.0))

            def judge(model: SegmentationNet = model, batch: BatchLike = batch) -> Tensor:
                value = steps.loss(model, batch, part.exact)
                return value + penalty(model) if penalty else value

            def train(model: SegmentationNet = model, batch: BatchLike = own) -> Tensor:
                return steps.loss(model, batch, part.exact)

            s = self.settings
            weights, rows = list(stepped(model, s.stepped).values()), list(model.alphas().values())
            grads, value = part.take(train, judge, weights, rows, s.lr * s.rate)
            model.body.relax(before)
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
            loss += value / len(copies)
            steps.report.gradient_evaluations += part.evaluations
        assert total is not None
        steps.report.alpha_losses.append(finite(loss))
        for a, g in zip(alphas, total, strict=True):
            check_finite(g)
            a.grad = g / len(copies)
        optimizer.step()

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
