"""What a run of DARTS does, seen from outside: forward hooks of torch, and parts that note their calls and pass them on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanas_med.learner import DartsLearner, DartsSettings, Runtime
from metanas_med.learner.alpha_gradients import AlphaGradient, Halves, Loss
from metanas_med.learner.base import Adapted
from metanas_med.learner.discretizers import Discretizer
from metanas_med.learner.losses import segmentation_loss
from metanas_med.space import one_hot_alphas
from metanas_med.space.network import SegmentationNet

from .toy import CPU, STRIDES, ToyBatch, ToySupport, context, make_net, tau_of

LOSS = segmentation_loss()


def loss_of(net: SegmentationNet, batch: Any) -> Tensor:
    return LOSS(net(CPU.place(batch.images), batch.coords, STRIDES), batch.labels)


def state_of(net: SegmentationNet) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters()}


@dataclass(frozen=True)
class Seen:
    """A forward pass whose gradient is taken."""

    kind: str  #: weights or alphas: what steps along its gradient
    net: int  #: which network
    scans: tuple[int, ...]
    tau: float | None  #: of a soft network
    prune: float


@dataclass(frozen=True)
class Taken:
    """A call of the alpha gradient."""

    used: list[Tensor]  #: what it returned
    exact: list[Tensor]  #: the first-order gradient at the present networks, taken apart
    kernel: Tensor  #: a weight, as it was


class NotingGradient:
    """An alpha gradient that notes what another one returns, next to the first-order gradient at the present networks."""

    def __init__(self, part: AlphaGradient, watch: Watch) -> None:
        self.part, self.watch = part, watch
        self.bilevel, self.evaluations, self.exact = part.bilevel, part.evaluations, part.exact

    def split(self, num_scans: int, generator: np.random.Generator) -> Halves:
        return self.part.split(num_scans, generator)

    def take(
        self, train: Loss, judge: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], rate: float
    ) -> tuple[list[Tensor], float]:
        watch = self.watch
        watch.kind = ""
        judge()
        assert watch.net is not None and watch.batch is not None
        net, batch = watch.net, watch.batch
        exact = list(torch.autograd.grad(loss_of(net, batch), list(net.alphas().values())))
        watch.kind = "alphas"
        used, value = self.part.take(train, judge, weights, alphas, rate)
        watch.kind = "weights"
        watch.taken.append(Taken([g.clone() for g in used], exact, net.stem.kernel.detach().clone()))
        return used, value


class NotingDiscretizer:
    """A discretizer that notes when it is asked, and keeps the soft network at the architecture that was found."""

    def __init__(self, part: Discretizer, watch: Watch) -> None:
        self.part, self.watch, self.discretizes = part, watch, part.discretizes

    def search_steps(self, steps: int) -> int:
        return self.part.search_steps(steps)

    def genotype(self, net: SegmentationNet, task: Any, context: Any) -> dict[str, Any] | None:
        found = self.part.genotype(net, task, context)
        assert found is not None
        self.watch.switched.append(len(self.watch.losses))
        self.watch.soft = copy.deepcopy(net)
        one_hot_alphas(self.watch.soft.body, found)
        return found


class Watch:
    """Notes of a run."""

    def __init__(self, keep_states: bool = False) -> None:
        self.events: list[Seen] = []
        self.taken: list[Taken] = []
        self.switched: list[int] = []  #: the step at which the genotype was read off
        self.soft: SegmentationNet | None = None  #: the soft network then, at the architecture that was found
        self.losses: list[float] = []
        self.states: list[dict[str, Tensor]] = []  #: of the network that trains, after each step
        self.kind = "weights"
        self.net: SegmentationNet | None = None
        self.batch: ToyBatch | None = None
        self.keep_states = keep_states

    def run(
        self, given: DartsSettings, support: ToySupport, net: SegmentationNet | None = None, seed: int = 0, runtime: Runtime = CPU
    ) -> Adapted:
        """Return what a run gives, and note it."""
        learner = DartsLearner(given)
        learner.alpha_gradient = NotingGradient(learner.alpha_gradient, self)  # type: ignore[assignment]
        learner.discretizer = NotingDiscretizer(learner.discretizer, self)  # type: ignore[assignment]
        net = make_net(dtype=support.dtype) if net is None else net

        def note_pass(module: SegmentationNet, arguments: tuple[Any, ...]) -> None:
            if not torch.is_grad_enabled():  # a Dice
                return
            images = arguments[0]
            self.batch = next(b for b in reversed(support.batches) if torch.equal(b.images.nan_to_num(), images.nan_to_num()))
            self.net = module
            if self.kind:
                tau = tau_of(module) if module.alphas() else None
                self.events.append(Seen(self.kind, id(module), self.batch.scans, tau, module.body.relaxed.prune))

        def note_step(step: int, loss: float) -> None:
            assert step == len(self.losses)
            self.losses.append(loss)
            if self.keep_states and self.net is not None:
                self.states.append(state_of(self.net))

        hook = net.register_forward_pre_hook(note_pass)
        try:
            return learner.run(net, support.task(), context(seed, runtime, on_step=note_step))
        finally:
            hook.remove()

    def of(self, kind: str) -> list[Seen]:
        """Return the passes of one kind."""
        return [seen for seen in self.events if seen.kind == kind]


def run(given: DartsSettings, support: ToySupport, net: SegmentationNet | None = None, seed: int = 0) -> tuple[Watch, Adapted]:
    """Return notes and result of a run."""
    watch = Watch()
    return watch, watch.run(given, support, net, seed)
