"""Features trained through the closed-form head: gradient steps on episodes whose rows are solved, not trained.

R2-D2 (Bertinetto et al. 2019, arXiv 1805.08136, algorithm 1) for voxels: ridge regression solves rows on one half of an episode's
scans. The gradient of the loss on the other half passes through the solution into the features. The halves swap roles, so one
forward and backward pass serves both. Unlike a task learner's, the optimizer lasts as long as the meta-training, and nothing is
adapted: the closed form already segments from the resulting state.

With ``head: trained`` the same loop is joint pretraining, the baseline of meta-learning. A recurring task has its own rows, which
are trained with the features on all of its scans. Other tasks train features under solved, fixed rows.

With the objective "contrast" no head is involved: a contrastive loss over the labels of all patches trains the features through
projections that are thrown away (contrastive.py). Moments of weights and alphas serve both objectives.

Cost per step: one forward and backward pass over ``views`` patches. Each half adds a solve of F unknowns (F: the head's features)
and a fit of its scale on a few thousand voxels; the contrast has n^2 similarities per level of n sampled voxels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Section
from ..space.choice import Relaxed
from ..space.network import NUM_POSITION, SegmentationNet
from .base import Context
from .closed_form import closed_form_loss, follow_rows, start_rows, trained_loss
from .contrastive import PROJECTION, ContrastSettings, episode_contrast, part_of, projection_sizes, start_projections
from .diversity import log_correlation
from .episode import BatchLike, NonFiniteLossError, Task
from .losses import segmentation_loss
from .observe import Episode, observe, observe_labels
from .optimizer import Group, Optimizer

log = logging.getLogger(__name__)

#: head: segmentation under solved or kept rows, as ``FeatureSettings.head`` says; contrast: a contrastive loss over labels
Objective = Literal["head", "contrast"]
Named = Mapping[str, nn.Parameter]
#: networks that are parts of a supernet, drawn for one step; the first is the largest (space/narrow.py)
Variants = Callable[[SegmentationNet, np.random.Generator], Sequence[SegmentationNet]]


class FeatureSettings(Section):
    """Steps of meta-training on the features of the shared network.

    ``closed_form``: the head is solved on some scans, and its loss on others trains the features through it (R2-D2).
    ``trained``: every organ task keeps its own rows, trained together with the features (joint multi-task pretraining).
    """

    head: Literal["closed_form", "trained"] = "closed_form"  #: head whose loss trains the features
    steps: int = Field(default=3, ge=1)  #: gradient steps per episode
    views: int = Field(default=4, ge=2, multiple_of=2)  #: patches per step; rows solved on one half are judged on the other
    lr: float = Field(default=1e-3, gt=0)  #: learning rate of weights; a cosine lowers it to a hundredth in the last phase
    optimizer: Literal["adam", "muon"] = "muon"  #: muon: kernels by Muon, the rest by Adam; alphas always use Adam
    kernel_lr: float = Field(default=2e-2, gt=0)  #: learning rate of kernels that Muon steps; it falls as lr does
    alpha_lr: float = Field(default=0.02, ge=0)  #: learning rate of alphas until the commitment; 0: alphas do not move
    alpha_every: int = Field(default=3, ge=2)  #: every n-th step moves alphas instead of weights, on separate patches
    beta1: float = Field(default=0.9, ge=0, lt=1)  #: first beta of Adam; momentum of Muon
    beta2: float = Field(default=0.99, ge=0, lt=1)  #: second beta of Adam
    clip: float = Field(default=1.0, gt=0)  #: largest gradient norm
    voxels: int = Field(default=1000, ge=16)  #: voxels per patch on which the rows are solved
    strength: float = Field(default=1e-2, gt=0)  #: strength of the ridge
    head_lr: float = Field(default=2e-3, gt=0)  #: learning rate of the rows that ``head: trained`` keeps
    solve_new: bool = True  #: rows of a new task start from the ridge solution
    diversity: float = Field(default=0.3, ge=0)  #: weight of the penalty on correlated features
    contrast: ContrastSettings = ContrastSettings()  #: steps whose objective is a contrast of labels

    @model_validator(mode="after")
    def _kernel_lr_is_used(self) -> FeatureSettings:
        if self.optimizer != "muon" and self.kernel_lr != type(self).model_fields["kernel_lr"].default:
            log.warning("setting kernel_lr %s has no effect: optimizer is not muon", self.kernel_lr)
        return self

    @model_validator(mode="after")
    def _alphas_have_a_turn(self) -> FeatureSettings:
        if self.alpha_lr and self.steps < self.alpha_every:
            raise ValueError(f"alphas would never move: steps {self.steps} is less than alpha_every {self.alpha_every}")
        return self


@dataclass(frozen=True)
class _Step:
    """What one step works on: patches of both halves, parameters of the head, and the parameters that it moves."""

    halves: tuple[BatchLike, BatchLike]
    kept: Named
    projections: Named
    moved: Sequence[nn.Parameter]
    rng: torch.Generator
    turn: bool  #: of the alphas


class FeatureLearner:
    """Adam or Muon on the weights of stem and body, and Adam on alphas, over all episodes.

    Moments are named, so a run can be resumed. Memory: two moments per weight (one with Muon) for the whole run, and copies of
    them during an episode.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.loss = segmentation_loss()
        self._moments: dict[str, dict[str, Tensor]] = {}
        self._rows: dict[str, Tensor] = {}  #: trained rows (K + 1, F) by task
        self._projections: dict[str, Tensor] = {}  #: of the contrast; empty before its first episode

    def run(
        self,
        net: SegmentationNet,
        task: Task,
        context: Context,
        rate: float = 1.0,
        search: bool = True,
        relaxed: Relaxed | None = None,
        steps: int | None = None,
        objective: Objective = "head",
        variants: Variants | None = None,
    ) -> list[float]:
        """Return the losses of ``settings.steps`` steps (or ``steps``) on ``task`` at ``rate`` times the learning rate.

        ``net`` holds the meta state and is changed in place. ``search``: alphas may move. ``relaxed``: relaxation of a soft net.
        With the objective "contrast", the head's rows do not move. ``variants`` draws parts of ``net`` for every step: their mean
        gradient moves the weights, which costs a forward and backward pass of each (sandwich rule: Yu and Huang 2019,
        arXiv 1903.05134, section 3).
        Raises NonFiniteLossError, before the step, if a loss or its gradient is not finite.
        """
        s, generator = self.settings, context.generator
        net.start_task(task.num_channels, task.num_organs)
        weights = {n: p for n, p in net.weights().items() if not n.startswith("head.")}
        alphas = net.alphas() if s.alpha_lr and search else {}
        kept = self._kept_rows(net, task) if objective == "head" else {}
        projections = self._loaded_projections(net, generator) if objective == "contrast" else {}
        optimizer = self._optimizer(weights, kept, alphas, projections, rate)
        torch_rng = torch.Generator().manual_seed(int(generator.integers(2**62)))
        # a generator of their own: batches are drawn from ``generator`` ahead, in another thread
        sizes_rng = np.random.default_rng(int(generator.integers(2**62))) if variants else generator
        if relaxed is not None:
            net.body.relax(replace(relaxed, generator=torch_rng if alphas else None))
        losses = []
        for step, halves in enumerate(self._batches(task, generator, s.steps if steps is None else steps)):
            # first-order DARTS over episodes: alphas are judged on patches that the weights did not just step on
            turn = bool(alphas) and step % s.alpha_every == s.alpha_every - 1
            moved = list((alphas if turn else {**weights, **kept, **projections}).values())
            nets = variants(net, sizes_rng) if variants else [net]
            new = step == 0 and s.solve_new and self._are_new(kept)
            own = _Step(halves, kept, projections, moved, torch_rng, turn)
            found = [self._gradients(part, task, context, own, new and n == 0) for n, part in enumerate(nets)]
            losses.append(found[0][0])
            self._step(optimizer, [grads for _, grads, _ in found], moved)
            if (rows := found[0][2]) is not None and not kept and rows.shape[1] == net.head.size:
                follow_rows(net, rows)
        self._keep(optimizer, {**weights, **alphas, **kept, **projections}, projections)
        for name, offsets in kept.items():
            self._rows[name] = net.head.rows(offsets).detach().clone()
            follow_rows(net, self._rows[name])
        net.body.relax(replace(net.body.relaxed, generator=None))
        return losses

    def _optimizer(self, weights: Named, rows: Named, alphas: Named, projections: Named, rate: float) -> Optimizer:
        """Return an optimizer of all parameters at ``rate`` times their learning rates, with the moments of earlier episodes."""
        s = self.settings
        groups = [
            Group(list(weights.values()), s.lr * rate, s.kernel_lr * rate),
            Group(list(rows.values()), s.head_lr * rate),
            Group(list(alphas.values()), s.alpha_lr * rate),
            Group(list(projections.values()), s.contrast.lr * rate),
        ]
        optimizer = Optimizer(groups, s.optimizer, (s.beta1, s.beta2), keep_norms=True)
        for name, p in {**weights, **alphas, **rows, **projections}.items():
            if name in self._moments:
                # restored as copies: an episode that fails, or a checkpoint during an episode, must not see partial updates
                optimizer.restore(p, self._moments[name])
        return optimizer

    def _gradients(
        self, net: SegmentationNet, task: Task, context: Context, step: _Step, new: bool
    ) -> tuple[float, list[Tensor | None], Tensor | None]:
        """Return the loss of ``net`` on one step's patches, its gradient, and the rows that were solved, if any.

        ``new``: the kept rows of the task start from the ridge solution.
        """
        s = self.settings
        projections = part_of(step.projections, net.head.widths)
        seen_by, voxels = (observe_labels, s.contrast.voxels) if projections else (observe, s.voxels)
        seen = seen_by(net, task, step.halves, voxels, step.rng, context.runtime)
        if new:
            start_rows(net, seen, s.strength)
        loss, rows = self._loss(net, seen, step.kept, projections)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise NonFiniteLossError(f"the loss became {value}")
        if s.diversity and not step.turn:
            loss = loss + s.diversity * log_correlation(seen.part(slice(None))[0][:, :-NUM_POSITION])
        return value, list(torch.autograd.grad(loss, step.moved, allow_unused=True)), rows

    def _loss(
        self, net: SegmentationNet, seen: Episode, kept: Named, projections: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss of the objective, and the rows (K + 1, F) that it used, if any."""
        s = self.settings
        if projections:
            return episode_contrast(net, seen, projections, s.contrast.temperature), None
        if kept:
            return trained_loss(net, seen, self.loss)
        return closed_form_loss(net, seen, self.loss, s.strength, through=s.head != "trained")

    def _step(self, optimizer: Optimizer, grads: Sequence[Sequence[Tensor | None]], moved: Sequence[nn.Parameter]) -> None:
        """Step ``moved`` against the mean of ``grads``, one list a network; NonFiniteLossError if it is not finite."""
        optimizer.zero_grad()
        for p, *own in zip(moved, *grads, strict=True):
            there = [g for g in own if g is not None]
            p.grad = (there[0] if len(grads) == 1 else torch.stack(there).sum(0) / len(grads)) if there else None
        # the moments persist: one bad gradient would spoil them for the rest of the run
        if not torch.isfinite(nn.utils.clip_grad_norm_(moved, self.settings.clip)):
            raise NonFiniteLossError("the gradient became infinite or not a number")
        optimizer.step()

    def _keep(self, optimizer: Optimizer, moving: Named, projections: Named) -> None:
        """Keep the moments of an episode's parameters, and the projections."""
        for name, p in moving.items():
            moments = optimizer.state(p)
            if moments:
                self._moments[name] = moments
            p.grad = None
        self._projections |= {name: p.detach().clone() for name, p in projections.items()}

    def _loaded_projections(self, net: SegmentationNet, generator: np.random.Generator) -> dict[str, nn.Parameter]:
        """Return copies of the kept projections, or new ones from ``generator`` if there are none of the same sizes."""
        sizes = projection_sizes(net.head.widths, self.settings.contrast.width)
        found = {name: tuple(value.shape) for name, value in self._projections.items()}
        if found != sizes:  # at first, or a resumed run with another contrast.width
            for name in found:
                self._moments.pop(name, None)
            draw = torch.Generator().manual_seed(int(generator.integers(2**62)))
            made = start_projections(sizes, draw)
        else:
            # in one order: a file has another, and the sum of a gradient's norms depends on it
            made = {name: self._projections[name].clone() for name in sizes}
        like = net.head.background
        return {name: nn.Parameter(value.to(like.device, like.dtype)) for name, value in made.items()}

    def _kept_rows(self, net: SegmentationNet, task: Task) -> dict[str, nn.Parameter]:
        """Return the own rows of a recurring task, loaded into ``net``, if rows are trained; else nothing."""
        if self.settings.head != "trained" or not task.key:
            return {}
        offsets, name = net.task["rows"], f"rows/{task.key}"
        if name in self._rows:
            with torch.no_grad():  # the meta-learned rows have moved since; the kept value includes them
                offsets.copy_(self._rows[name].to(offsets.device) - net.head.rows(offsets))
        return {name: offsets}

    def _are_new(self, kept: Mapping[str, nn.Parameter]) -> bool:
        return bool(kept) and not set(kept) <= set(self._rows)

    def _batches(self, task: Task, generator: np.random.Generator, steps: int) -> Iterator[tuple[BatchLike, BatchLike]]:
        """Yield two batches of different scans per step; with one scan, batches of different patches and augmentations."""
        size = max(self.settings.views // 2, 1)
        requests: list[tuple[int, Sequence[int]]] = []
        for _ in range(steps):
            order = [int(i) for i in generator.permutation(task.num_scans)]
            middle = len(order) // 2
            requests += [(size, order[:middle] or order), (size, order[middle:])]
        stream = task.support.stream(requests)
        for first in stream:
            yield first, next(stream)

    def state(self) -> dict[str, Tensor]:
        """Return moments, kept rows and projections as named tensors."""
        moments = {f"{key}.{name}": value for name, moments in self._moments.items() for key, value in moments.items()}
        return moments | {f"value.{name}": value for name, value in {**self._rows, **self._projections}.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        self._moments, self._rows, self._projections = {}, {}, {}
        for key, value in state.items():
            kind, name = key.split(".", 1)
            if kind == "value":
                (self._projections if name.startswith(PROJECTION) else self._rows)[name] = value.clone()
            else:
                self._moments.setdefault(name, {})[kind] = value.clone()
