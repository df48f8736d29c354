"""MAML (Finn et al. 2017, arXiv 1703.03400) through learn2learn: the gradient of a query loss through the inner steps.

Beside it FOMAML as a task learner, so that the same loop of meta-training serves it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..config import LearnerSettings
from ..l2l import import_learn2learn
from ..space.choice import Relaxed
from ..space.network import SegmentationNet
from .darts import Adapted
from .episode import BatchLike, LearnerReport, NonFiniteLossError, Task
from .losses import segmentation_loss
from .registry import register_learner
from .relaxations import relaxation_of
from .runtime import Runtime
from .support import start_head

BatchT = TypeVar("BatchT")


def maml_gradient(
    net: nn.Module,
    loss: Callable[[Any, BatchT], Tensor],
    support: Sequence[BatchT],
    query: BatchT,
    *,
    lr: float,
    first_order: bool = False,
) -> tuple[dict[str, Tensor], float]:
    """Return the gradient, by parameter name, of the query loss after a gradient step on each batch of ``support``; and that loss.

    ``loss(net, batch)`` is a scalar; ``net`` stays as it was. ``first_order`` drops the second derivatives (FOMAML). A parameter
    that plays no part, or needs no gradient and so takes no inner step, has a gradient of zero. Second order holds the graphs
    of all steps: memory grows with ``steps``.
    """
    learn2learn = import_learn2learn()
    learner = learn2learn.algorithms.MAML(net, lr=lr, first_order=first_order, allow_unused=True).clone()
    for batch in support:
        learner.adapt(loss(learner, batch), allow_nograd=True)
    value = loss(learner, query)
    named = dict(net.named_parameters())
    moved = {name: p for name, p in named.items() if p.requires_grad}
    grads = dict(zip(moved, torch.autograd.grad(value, list(moved.values()), allow_unused=True), strict=True))
    found = {name: torch.zeros_like(p) if (g := grads.get(name)) is None else g for name, p in named.items()}
    return found, float(value.detach())


@register_learner("fomaml")
class FomamlLearner:
    """First-order MAML as a task learner: its end lies one query gradient from its start.

    So the meta learner's step towards the mean end, at rate ``beta_weights``, is FOMAML's outer step at that rate. The inner steps
    are plain gradient steps at ``lr`` (learn2learn), from rows solved in closed form where the settings say so. Support and query
    patches come from different scans, or from one where there is no other. Alphas stay as they are.
    """

    def __init__(self, settings: LearnerSettings) -> None:
        import_learn2learn()  # where it is missing, that is told before the first task
        self.settings = settings
        self.loss = segmentation_loss(settings.loss)

    def run(
        self, net: SegmentationNet, task: Task, generator: np.random.Generator, runtime: Runtime, on_step: Any = None
    ) -> Adapted:
        """Return ``net``, changed in place: its weights less the gradient of the query loss, clipped in norm.

        Raises NonFiniteLossError when loss or gradient is not finite, before any weight has moved.
        """
        start, s = time.perf_counter(), self.settings
        report = LearnerReport(steps=s.steps, alpha="frozen", head=s.head)
        net.start_task(task.num_channels, task.num_organs)
        # whatever ran before, a validation or another learner, may have left others
        net.body.relax(Relaxed(relaxation_of(s)))
        order = [int(i) for i in generator.permutation(task.num_scans)]
        seen, judged = (order[1:], order[:1]) if len(order) > 1 else (order, order)
        if s.head == "closed_form":
            rng = torch.Generator().manual_seed(int(generator.integers(2**62)))
            report.ridge_strength = start_head(net, task, seen, s.ridge_voxels, rng, runtime)
        *support, query = task.support.stream([*[(s.batch, seen)] * s.steps, (s.batch, judged)])

        def loss(model: Any, batch: BatchLike) -> Tensor:
            with runtime.autocast():
                logits = model(runtime.place(batch.images), batch.coords.to(runtime.device), task.strides)
            return self.loss(logits, batch.labels.to(runtime.device))

        alphas = list(net.alphas().values())
        for a in alphas:
            a.requires_grad_(False)
        try:
            grads, value = maml_gradient(net, loss, support, query, lr=s.lr, first_order=True)
        finally:
            for a in alphas:
                a.requires_grad_(True)
        weights = net.weights()
        norm = torch.stack([grads[name].norm() for name in weights]).norm()
        if not (math.isfinite(value) and bool(torch.isfinite(norm))):
            raise NonFiniteLossError(f"the query loss became {value}, its gradient's norm {float(norm)}")
        with torch.no_grad():
            for name, p in weights.items():
                p.sub_(grads[name] * min(1.0, s.clip / max(float(norm), 1e-12)))
        report.losses.append(value)
        report.gradient_evaluations = s.steps + 1
        if on_step:
            on_step(s.steps, value)
        report.seconds = time.perf_counter() - start
        return Adapted(net, report)
