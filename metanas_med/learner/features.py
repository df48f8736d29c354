"""Features trained through the closed-form head: gradient steps on episodes whose rows are solved, not trained.

R2-D2 (Bertinetto et al. 2019, arXiv 1805.08136, algorithm 1) for voxels: ridge regression solves rows on one half of an episode's
scans. The gradient of the loss on the other half passes through the solution into the features. The halves swap roles, so one
forward and backward pass serves both. Unlike a task learner's, the optimizer lasts as long as the meta-training, and nothing is
adapted: the closed form already segments from the resulting state.

With ``head: trained`` the same loop is joint pretraining, the baseline of meta-learning. A recurring task has its own rows, which
are trained with the features on all of its scans. Other tasks train features under solved, fixed rows.

Cost per step: one forward and backward pass over ``views`` patches. Each half adds a solve of F unknowns (F: the head's features)
and a fit of its scale on a few thousand voxels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Section
from ..space.choice import Relaxed
from ..space.network import NUM_POSITION, SegmentationNet, sample_features
from .base import Context
from .episode import BatchLike, NonFiniteLossError, Task
from .head import Moments, VoxelSample, calibrate_scores, complete_classes, ridge, sample_voxels
from .losses import Loss, batch_loss, segmentation_loss
from .optimizer import Group, Optimizer
from .runtime import Runtime

log = logging.getLogger(__name__)

#: rate at which the head's meta-learned rows follow the solved ones, so that they are also a start without the closed form
_ROW_RATE = 0.02


class FeatureSettings(Section):
    """Steps of meta-training on the features of the shared network.

    ``closed_form``: the head is solved on some scans, and its loss on others trains the features through it (R2-D2).
    ``trained``: every organ task keeps its own rows, trained together with the features (joint multi-task pretraining).
    """

    head: Literal["closed_form", "trained"] = "closed_form"  #: head whose loss trains the features
    first: float = Field(default=0.3, ge=0, le=1)  #: share of the iterations, at the start of the run, that train features
    last: float = Field(default=0.6, ge=0, le=1)  #: share at the end; after the commitment these train the discrete network
    steps: int = Field(default=3, ge=1)  #: gradient steps per episode
    views: int = Field(default=4, ge=2, multiple_of=2)  #: patches per step; rows solved on one half are judged on the other
    lr: float = Field(default=1e-3, gt=0)  #: learning rate of weights; a cosine lowers it to a hundredth in the last share
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

    def run(
        self,
        net: SegmentationNet,
        task: Task,
        context: Context,
        rate: float = 1.0,
        search: bool = True,
        relaxed: Relaxed | None = None,
        steps: int | None = None,
    ) -> list[float]:
        """Return the losses of ``settings.steps`` steps (or ``steps``) on ``task`` at ``rate`` times the learning rate.

        ``net`` holds the meta state and is changed in place. ``search``: alphas may move. ``relaxed``: relaxation of a soft net.
        Raises NonFiniteLossError, before the step, if a loss or its gradient is not finite.
        """
        s, generator, runtime = self.settings, context.generator, context.runtime
        net.start_task(task.num_channels, task.num_organs)
        weights = {n: p for n, p in net.weights().items() if not n.startswith("head.")}
        alphas = net.alphas() if s.alpha_lr and search else {}
        kept = self._kept_rows(net, task)
        groups = [
            Group(list(weights.values()), s.lr * rate, s.kernel_lr * rate),
            Group(list(kept.values()), s.head_lr * rate),
            Group(list(alphas.values()), s.alpha_lr * rate),
        ]
        optimizer = Optimizer(groups, s.optimizer, (s.beta1, s.beta2), keep_norms=True)
        for name, p in {**weights, **alphas, **kept}.items():
            if name in self._moments:
                # restored as copies: an episode that fails, or a checkpoint during an episode, must not see partial updates
                optimizer.restore(p, self._moments[name])
        torch_rng = torch.Generator().manual_seed(int(generator.integers(2**62)))
        if relaxed is not None:
            net.body.relax(replace(relaxed, generator=torch_rng if alphas else None))
        losses = []
        for step, halves in enumerate(self._batches(task, generator, s.steps if steps is None else steps)):
            # first-order DARTS over episodes: alphas are judged on patches that the weights did not just step on
            turn = bool(alphas) and step % s.alpha_every == s.alpha_every - 1
            moved = list((alphas if turn else {**weights, **kept}).values())
            seen = observe(net, task, halves, s.voxels, torch_rng, runtime)
            if step == 0 and s.solve_new and self._are_new(kept):
                _start_rows(net, seen, s.strength)
            loss, rows = trained_loss(net, seen, self.loss) if kept else closed_form_loss(net, seen, s, self.loss)
            value = float(loss.detach())
            if not np.isfinite(value):
                raise NonFiniteLossError(f"the loss became {value}")
            if s.diversity and not turn:
                loss = loss + s.diversity * log_correlation(seen.part(slice(None))[0][:, :-NUM_POSITION])
            optimizer.zero_grad()
            for p, g in zip(moved, torch.autograd.grad(loss, moved, allow_unused=True), strict=True):
                p.grad = g
            # the moments persist: one bad gradient would spoil them for the rest of the run
            if not torch.isfinite(nn.utils.clip_grad_norm_(moved, s.clip)):
                raise NonFiniteLossError("the gradient became infinite or not a number")
            optimizer.step()
            if not kept:
                _follow(net, rows)
            losses.append(value)
        for name, p in {**weights, **alphas, **kept}.items():
            moments = optimizer.state(p)
            if moments:
                self._moments[name] = moments
            p.grad = None
        for name, offsets in kept.items():
            self._rows[name] = net.head.rows(offsets).detach().clone()
            _follow(net, self._rows[name])
        net.body.relax(replace(net.body.relaxed, generator=None))
        return losses

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
        """Return moments and kept rows as named tensors."""
        moments = {f"{key}.{name}": value for name, moments in self._moments.items() for key, value in moments.items()}
        return moments | {f"value.{name}": value for name, value in self._rows.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the moments and rows that ``state`` returned."""
        self._moments, self._rows = {}, {}
        for key, value in state.items():
            kind, name = key.split(".", 1)
            if kind == "value":
                self._rows[name] = value.clone()
            else:
                self._moments.setdefault(name, {})[kind] = value.clone()


@torch.no_grad()
def _start_rows(net: SegmentationNet, seen: Episode, strength: float) -> None:
    """Set the rows of a new task to those solved on all sampled voxels."""
    x, y, weights = seen.part(slice(None))
    rows = _calibrated(solved_rows(x, y, net.num_organs, strength), x, y, weights)
    offsets = net.task["rows"]
    offsets.copy_(rows - net.head.rows(torch.zeros_like(offsets)))


@torch.no_grad()
def _follow(net: SegmentationNet, rows: Tensor) -> None:
    """Move the head's meta-learned rows a little towards a task's ``rows`` (K + 1, F)."""
    net.head.background.lerp_(rows[0], _ROW_RATE)
    net.head.organ.lerp_(rows[1:].mean(0), _ROW_RATE)


@dataclass(frozen=True)
class Episode:
    """The features of an episode's patches: decoder ``features`` (finest first) of all patches, and sampled voxels of each.

    ``samples[i]`` holds the head's features (n, F), labels (n,) and weights (n,) of patch i.
    """

    features: list[Tensor]
    coords: Tensor
    labels: Tensor
    samples: list[VoxelSample]
    missing: tuple[tuple[int, ...], ...] = ()  #: organs that are not annotated in each patch's scan; empty if all are

    def part(self, which: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sampled features (n, F), labels (n,) and weights (n,) of some patches."""
        chosen = self.samples[which]
        return (
            torch.cat([s.features for s in chosen]),
            torch.cat([s.labels for s in chosen]),
            torch.cat([s.weights for s in chosen]),
        )


def observe(
    net: SegmentationNet, task: Task, halves: Sequence[BatchLike], voxels: int, generator: torch.Generator, runtime: Runtime
) -> Episode:
    """Return the features of ``net`` for the patches of both halves, with ``voxels`` sampled voxels per patch.

    The background of scans with organs that are not annotated is sampled only in a half without any other scan.
    """
    images = torch.cat([h.images for h in halves])
    coords = torch.cat([h.coords for h in halves]).to(runtime.device)
    labels = torch.cat([h.labels for h in halves])
    with runtime.autocast():
        features = net.features(runtime.place(images), task.strides)
    samples = []
    missing = tuple(organs for h in halves for organs in (h.missing or ((),) * len(h.labels)))
    for i in range(len(labels)):
        half = missing[: len(halves[0].labels)] if i < len(halves[0].labels) else missing[len(halves[0].labels) :]
        where, share = sample_voxels(labels[i], voxels, generator, background=not missing[i] or all(half))
        sampled = sample_features([f[i : i + 1] for f in features], coords[i : i + 1], where.to(runtime.device), labels.shape[1:])
        samples.append(VoxelSample(net.head.pad(sampled), labels[i][tuple(where.T)], share))
    return Episode(features, coords, labels, complete_classes(samples, missing, net.num_organs), missing if any(missing) else ())


def closed_form_loss(net: SegmentationNet, seen: Episode, settings: FeatureSettings, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return the mean loss of both halves, each under rows (K + 1, F) solved on the other, and the mean of those rows, detached.

    Scale and biases of the logits are fitted to the judged voxels and treated as constants.
    """
    size = len(seen.labels) // 2
    base = net.head.rows(torch.zeros_like(net.task["rows"])).detach()
    total, mean = torch.zeros((), device=base.device), torch.zeros_like(base)
    sides = (slice(0, size), slice(size, 2 * size))
    for fit, judge in (sides, sides[::-1]):
        x, y, _ = seen.part(fit)
        rows = solved_rows(x, y, net.num_organs, settings.strength)
        if settings.head == "trained":  # joint training has no gradient through a solution
            rows = rows.detach()
        rows = _calibrated(rows, *seen.part(judge))
        logits = net.head([f[judge] for f in seen.features], seen.coords[judge], rows - base)
        total = total + batch_loss(loss, logits, seen.labels[judge], seen.missing[judge]) / 2
        mean += rows.detach() / 2
    return total, mean


def _calibrated(rows: Tensor, features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return ``rows`` (K + 1, F) with the scale and biases that fit sampled voxels best, both treated as constants."""
    scores = features.detach().cpu().float() @ rows.detach().cpu().float().T
    _, scale, bias = calibrate_scores(scores, labels, weights)
    return rows * scale.to(rows) + F.pad(bias[:, None].to(rows), (rows.shape[1] - 1, 0))


def trained_loss(net: SegmentationNet, seen: Episode, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return the loss of all patches under the task's own rows (K + 1, F), and those rows, detached."""
    logits = net.head(seen.features, seen.coords, net.task["rows"])
    return batch_loss(loss, logits, seen.labels, seen.missing), net.head.rows(net.task["rows"]).detach()


def log_correlation(features: Tensor) -> Tensor:
    """Return the logarithm of the mean squared correlation of ``features`` (n, F): from -log F (uncorrelated) to 0 (all alike).

    Features trained on few tasks become alike and may then lack what a new organ needs. The covariance term of VICReg (Bardes et
    al. 2022, arXiv 2105.04906, equation 4) penalises the same. Cost: a product of F x n and n x F.
    """
    centred = features - features.mean(0)
    # constant features correlate with nothing and have no gradient
    scaled = centred / centred.square().sum(0).clamp(min=1e-6).sqrt()
    return (scaled.T @ scaled).square().mean().log()


def effective_number(features: Tensor) -> float:
    """Return the effective rank of the correlations of ``features`` (n, F): 1 if all are alike, F if no two are.

    The exponential of the entropy of their spectrum (Roy and Vetterli 2007, "The effective rank").
    """
    x = features.double()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    share = torch.linalg.eigvalsh(x.T @ x).clamp(min=0)
    share = share / share.sum()
    return float(torch.exp(-(share * share.clamp(min=1e-300).log()).sum()))


def solved_rows(features: Tensor, labels: Tensor, num_organs: int, strength: float) -> Tensor:
    """Return the ridge solution (K + 1, F) of class-balanced voxels; differentiable in ``features`` (n, F). ``labels``: (n,)."""
    gram, moment = Moments.of(features, labels, num_organs).balanced()
    return ridge(gram, moment, strength).to(features.dtype)
