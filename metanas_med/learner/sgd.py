"""Plain gradient steps: the inner loop of MAML (Finn et al. 2017, arXiv 1703.03400) and of Reptile as published."""

from __future__ import annotations

import math
import time
from typing import Annotated, Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from ..config import ByName
from ..errors import ConfigError
from ..space.choice import Relaxed
from ..space.network import SegmentationNet
from .base import Adapted, Context, LearnerSettings, register_learner
from .episode import BatchLike, LearnerReport, NonFiniteLossError, Task
from .losses import segmentation_loss
from .maml import maml_gradient
from .relaxations import RELAXATIONS, RelaxationSettings, SoftmaxSettings
from .stepped import Stepped, only_stepped, stepped
from .support import start_head
from .weights import check_finite, finite, forward_loss


class SgdSettings(LearnerSettings):
    """Plain gradient steps on weights and task parameters; alphas do not move."""

    name: str = "sgd"
    steps: int = Field(default=5, ge=0)  #: gradient steps
    batch: int = Field(default=2, ge=1)  #: patches per step
    lr: float = Field(default=1e-2, gt=0)  #: learning rate of weights and task parameters
    clip: float = Field(default=1.0, gt=0)  #: largest norm of a gradient
    rate: float = Field(default=1.0, gt=0)  #: factor of lr
    stepped: Stepped = "all"  #: parts that steps move: all, decoder (with the head), head; the others stay
    relaxation: Annotated[SerializeAsAny[RelaxationSettings], ByName.of(RELAXATIONS)] = SoftmaxSettings()
    head: Literal["closed_form", "meta_row"] = "closed_form"  #: initial rows: ridge regression, or the meta-learned row
    ridge_voxels: int = Field(default=3000, ge=16)  #: support voxels per scan


@register_learner("sgd", settings=SgdSettings, source="Finn et al. 2017, arXiv 1703.03400, algorithm 1 (inner loop)")
class SgdLearner:
    """Plain gradient steps on the soft network, and the gradient of a query loss if a meta learner asks for it.

    Cost: ``steps`` gradients; with a query gradient one more, and for the exact one the graphs of all steps in memory.
    """

    gives_query_gradient = True

    def __init__(self, settings: SgdSettings) -> None:
        self.settings = settings
        self._criterion = segmentation_loss()

    def run(self, net: SegmentationNet, task: Task, context: Context) -> Adapted:
        """Return ``net`` after the steps; with ``context.query_gradient``, unchanged ``net`` and the clipped query gradient.

        The query is one scan that the steps do not use; with a single scan, other patches of it. Raises NonFiniteLossError, and
        ConfigError if a query gradient is asked for and the steps do not move all parts.
        """
        start, s = time.perf_counter(), self.settings
        report = LearnerReport(steps=s.steps, alpha="frozen", head=s.head)
        if context.query_gradient and s.stepped != "all":
            raise ConfigError(f"stepped {s.stepped}: a query gradient needs steps of all parts. Use stepped all.")
        net.start_task(task.num_channels, task.num_organs)
        stepped(net, s.stepped)  # refuses what the body cannot do, before any step
        net.body.relax(Relaxed(RELAXATIONS.build(s.relaxation.name, s.relaxation)))
        seen = judged = list(range(task.num_scans))
        if context.query_gradient:
            order = [int(i) for i in context.generator.permutation(task.num_scans)]
            seen, judged = (order[1:], order[:1]) if len(order) > 1 else (order, order)
        if s.head == "closed_form":
            rng = torch.Generator().manual_seed(int(context.generator.integers(2**62)))
            report.ridge_strength = start_head(net, task, seen, s.ridge_voxels, rng, context.runtime)
        alphas = list(net.alphas().values())
        for a in alphas:
            a.requires_grad_(False)
        try:
            gradient = self._query_gradient(net, task, context, seen, judged, report) if context.query_gradient else None
            if gradient is None:
                with only_stepped([net], s.stepped, alphas=False):
                    self._steps(net, task, context, seen, report)
        finally:
            for a in alphas:
                a.requires_grad_(True)
        report.seconds = time.perf_counter() - start
        return Adapted(net, report, gradient)

    def _steps(self, net: SegmentationNet, task: Task, context: Context, scans: list[int], report: LearnerReport) -> None:
        parameters = list(stepped(net, self.settings.stepped).values())
        for step, batch in enumerate(task.support.stream([(self.settings.batch, scans)] * self.settings.steps)):
            loss = forward_loss(net, batch, task, context, self._criterion)
            grads = torch.autograd.grad(loss, parameters, allow_unused=True)
            norm = torch.stack([g.norm() for g in grads if g is not None]).norm()
            check_finite(norm)
            scale = self.settings.lr * self.settings.rate * min(1.0, self.settings.clip / max(float(norm), 1e-12))
            with torch.no_grad():
                for p, g in zip(parameters, grads, strict=True):
                    if g is not None:
                        p.sub_(g, alpha=scale)
            report.losses.append(finite(float(loss.detach())))
            report.gradient_evaluations += 1
            if context.on_step:
                context.on_step(step, report.losses[-1])

    def _query_gradient(
        self, net: SegmentationNet, task: Task, context: Context, seen: list[int], judged: list[int], report: LearnerReport
    ) -> dict[str, Tensor]:
        """Return the gradient of the query loss after the steps, by name of the weights, clipped in norm; keeps ``net``."""
        s = self.settings
        *support, query = task.support.stream([*[(s.batch, seen)] * s.steps, (s.batch, judged)])

        def loss(model: nn.Module, batch: BatchLike) -> Tensor:
            return forward_loss(model, batch, task, context, self._criterion)

        grads, value = maml_gradient(
            net, loss, support, query, lr=s.lr * s.rate, first_order=context.query_gradient == "first_order"
        )
        found = {name: grads[name] for name in net.weights()}
        norm = torch.stack([g.norm() for g in found.values()]).norm()
        if not (math.isfinite(value) and bool(torch.isfinite(norm))):
            raise NonFiniteLossError(f"the query loss became {value}, its gradient's norm {float(norm)}")
        report.losses.append(value)
        report.gradient_evaluations = s.steps + 1
        if context.on_step:
            context.on_step(s.steps, value)
        return {name: g * min(1.0, s.clip / max(float(norm), 1e-12)) for name, g in found.items()}
