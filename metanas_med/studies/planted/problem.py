"""The planted problem: volumes whose labels a network of known operations made, and the search that is to find them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...learner import Context, DartsLearner, DartsSettings, LearnerReport, Task
from ...learner.discretizers import ArgmaxSettings
from ...learner.relaxations import SoftmaxSettings
from ...learner.relaxations.partial import PartialSettings
from ...space import calibrate, get_space
from ...space.blocks.operations import candidate_kind
from ...space.choice import Relaxed
from ...space.genotype import one_path
from ...space.network import SegmentationNet
from .space import PlantedSettings

#: options without weights, of different reach and linearity: no weight of the network can turn one into another
APART = ("identity", "avg_pool", "max_pool")
#: kernels that all contain the planted 1x1x1 one: on its data each can imitate every other
ALIKE = ("conv333", "conv331", "conv133", "conv313", "p3d")
STRIDES = ()
LOGIT = 4.0  #: standard deviation of the teacher's logits, so that labels depend on features alone
#: registered parts only: softmax at temperature 1, alphas and weights from one backward pass, argmax at the last step
LEARNER = DartsSettings(
    steps=60,
    batch=4,
    optimizer="adam",
    lr=5e-3,
    lr_decay="none",
    average=0.0,
    head="meta_row",
    relaxation=SoftmaxSettings(tau_start=1.0, tau_end=1.0),
    discretizer=ArgmaxSettings(phase=1.0, max_steps=0),
)


@dataclass(frozen=True)
class Batch:
    """Entries of a batch, as learners read them."""

    images: Tensor
    coords: Tensor
    labels: Tensor
    missing: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Volumes:
    """``images`` (N, 1, X, Y, Z) and ``labels`` (N, X, Y, Z): a support without augmentation."""

    images: Tensor
    labels: Tensor
    seed: int

    def _batch(self, scans: Sequence[int]) -> Batch:
        coords = torch.zeros(len(scans), 3, *self.images.shape[2:])  # labels do not depend on the place
        return Batch(self.images[list(scans)], coords, self.labels[list(scans)])

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Batch]:
        """Yield random entries for each request of (size, scan numbers)."""
        generator = np.random.default_rng(self.seed)
        for size, scans in requests:
            yield self._batch([int(scan) for scan in generator.permutation(list(scans))[:size]])

    def views(self, scan: int) -> Batch:
        """Return one volume."""
        return self._batch([scan])


@dataclass(frozen=True)
class Problem:
    """The size of a planted problem, and the settings of its search."""

    candidates: tuple[str, ...] = APART  #: options of the search
    planted: tuple[str, ...] = APART  #: operations of the network that makes the labels; each edge draws one
    num_scans: int = 8
    side: int = 8  #: voxels an axis
    num_edges: int = 3
    base_width: int = 6
    partial: int = 1  #: K: the planted operations read and write 1/K of the channels, as those of a PC-DARTS search do
    warm_up: int = 60  #: steps that train weights with equal alphas before the search
    learner: DartsSettings = field(default=LEARNER)
    limits: tuple[tuple[str, Any], ...] = ()  #: settings that the study lays over those of every learner, such as fewer steps

    def network(self, candidates: tuple[str, ...], seed: int, images: Tensor) -> SegmentationNet:
        """Return a supernet of ``candidates`` whose gains are measured on ``images``; linear candidates alone are merged."""
        merged = all(candidate_kind(name).kind.merges for name in candidates)
        space = PlantedSettings(base_width=self.base_width, num_edges=self.num_edges, candidates=candidates, merged=merged)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = SegmentationNet(get_space(space).build(None))
        _calibrate(net, images)
        return net


@dataclass(frozen=True)
class Found:
    """What a search found, by row."""

    planted: dict[str, str]
    found: dict[str, str]  #: in the genotype
    probability: dict[str, float]  #: of the most probable option
    report: LearnerReport

    @property
    def num_right(self) -> int:
        """The number of rows whose option is the planted one."""
        return sum(self.found[row] == option for row, option in self.planted.items())


def search(problem: Problem, seed: int) -> Found:
    """Return what the search finds on the data of a network that ``seed`` draws.

    The student starts with the stem and the head of the teacher, kernels of its own, and alphas of 0. All of its weights step.
    With a head of its own, features of several steps could do the same for it, and the answer would not be unique.
    """
    made = make(problem, seed)
    student = copy.deepcopy(made.student)
    report = DartsLearner(problem.learner).run(student, made.task, Context(np.random.default_rng(seed))).report
    assert report.genotype is not None
    return Found(
        made.planted,
        {name: report.genotype["picks"][name] for name in made.planted},
        {name: float(p.detach().max()) for name, p in student.body.probabilities().items()},
        report,
    )


def random_found(problem: Problem, seed: int) -> Found:
    """Return what alphas that are drawn from N(0, 1) choose: the chance level."""
    made = make(replace(problem, warm_up=0), seed)
    generator, rows = torch.Generator().manual_seed(seed + 1), made.student.body.rows()
    drawn = {name: torch.softmax(torch.randn(len(row.options), generator=generator), 0) for name, row in rows.items()}
    found = {name: rows[name].options[int(p.argmax())] for name, p in drawn.items()}
    return Found(made.planted, found, {name: float(p.max()) for name, p in drawn.items()}, LearnerReport(0, "random", ""))


@dataclass(frozen=True)
class Made:
    """A planted problem before its search."""

    planted: dict[str, str]
    student: SegmentationNet  #: a supernet whose weights were trained with equal alphas
    task: Task


def make(problem: Problem, seed: int) -> Made:
    """Return the problem that ``seed`` draws. It does not depend on the learner that searches."""
    return _make(replace(problem, learner=LEARNER, limits=()), seed)


@lru_cache(maxsize=2)
def _make(problem: Problem, seed: int) -> Made:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(problem.num_scans, 1, *[problem.side] * 3, generator=generator)
    teacher = problem.network(problem.planted, 2 * seed, images)
    student = problem.network(problem.candidates, 2 * seed + 1, images)
    rows = teacher.body.rows()
    picks = {name: int(torch.randint(len(row.options), (), generator=generator)) for name, row in rows.items()}
    labels = _labels(teacher, picks, images, generator, problem.partial)
    student.stem.load_state_dict(teacher.stem.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    _calibrate(student, images)
    view = (problem.side, problem.side, problem.side)
    task = Task(Volumes(images, labels, seed), problem.num_scans, 1, 1, STRIDES, view)
    if problem.warm_up:
        before = LEARNER.fixed(discrete=False).model_copy(update={"steps": problem.warm_up})
        if problem.partial > 1:
            partial = PartialSettings(tau_start=1.0, tau_end=1.0, k=problem.partial)
            before = before.model_copy(update={"relaxation": partial})
        DartsLearner(before).run(student, task, Context(np.random.default_rng([seed, 1])))
    return Made({name: row.options[picks[name]] for name, row in rows.items()}, student, task)


@torch.no_grad()
def _calibrate(net: SegmentationNet, images: Tensor) -> None:
    calibrate(net.body, [(net.stem(images[:4], net.task["channels"]), STRIDES)])


@torch.no_grad()
def _labels(
    teacher: SegmentationNet, picks: dict[str, int], images: Tensor, generator: torch.Generator, partial: int = 1
) -> Tensor:
    """Return labels (N, X, Y, Z) of the network of ``picks`` and a random head, which ``teacher`` keeps; half of the voxels are 1."""
    teacher.body.relax(Relaxed(fixed=replace(one_path(teacher.body, picks), partial=partial)))
    features = torch.cat(teacher.features(images, STRIDES), 1)
    row = torch.randn(len(picks), features.shape[1] // len(picks), generator=generator)
    row = (row / row.norm(dim=1, keepdim=True)).flatten()  # each edge's feature counts alike
    scores = torch.einsum("c,bcxyz->bxyz", row, features)
    factor = LOGIT / scores.std()
    teacher.head.background.zero_()
    teacher.head.organ.zero_()
    teacher.head.organ[: len(row)] = row * factor
    teacher.head.organ[-1] = -scores.median() * factor
    return (scores > scores.median()).long()
