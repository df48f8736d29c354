"""The planted problem: volumes whose labels a network of known operations made, and the search that is to find them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...learner import Context, DartsLearner, DartsSettings, LearnerReport, Task
from ...learner.discretizers import NoneSettings
from ...learner.relaxations import SoftmaxSettings
from ...space import calibrate, get_space
from ...space.network import SegmentationNet
from .space import PlantedSettings

#: no kernel of one option can take the values of another, apart from identity, which costs a kernel many steps
APART = ("identity", "conv333", "dilated333", "max_pool")
#: a 3x3x3 kernel can take the values of all others, and all are merged to one kernel
ALIKE = ("conv333", "conv331", "p3d", "conv111")
STRIDES = ((2, 2, 2),)
#: norms are kept so that alphas alone weigh the options; the falling temperature lets one option do the work alone
LEARNER = DartsSettings(
    steps=250,
    batch=4,
    average=0.0,
    keep_norms=True,
    relaxation=SoftmaxSettings(tau_start=1.0, tau_end=0.25),
    discretizer=NoneSettings(),
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
    """White noise ``images`` (N, 1, X, Y, Z) and ``labels`` (N, X, Y, Z): a support without augmentation."""

    images: Tensor
    labels: Tensor
    seed: int

    def _batch(self, scans: Sequence[int]) -> Batch:
        axes = [torch.linspace(-1, 1, size) for size in self.images.shape[2:]]
        coords = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return Batch(self.images[list(scans)], torch.stack([coords] * len(scans)), self.labels[list(scans)])

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Batch]:
        """Yield random entries for each request of (size, scan numbers)."""
        generator = np.random.default_rng(self.seed)
        for size, scans in requests:
            yield self._batch([int(scan) for scan in generator.choice(list(scans), size)])

    def views(self, scan: int) -> Batch:
        """Return one volume."""
        return self._batch([scan])


@dataclass(frozen=True)
class Problem:
    """The size of a planted problem; labels are the largest of random maps of the planted network's features."""

    candidates: tuple[str, ...] = APART
    num_scans: int = 12
    side: int = 12  #: voxels an axis
    num_organs: int = 8
    num_inputs: int = 3
    base_width: int = 12
    learner: DartsSettings = field(default=LEARNER)

    @property
    def space(self) -> PlantedSettings:
        """The search space; linear candidates alone are merged."""
        return PlantedSettings(
            base_width=self.base_width,
            num_inputs=self.num_inputs,
            candidates=self.candidates,
            merged=self.candidates == ALIKE,
        )


@dataclass(frozen=True)
class Found:
    """What a search found, by row."""

    planted: dict[str, str]
    found: dict[str, str]
    probability: dict[str, float]  #: of the option that was found, at temperature 1
    report: LearnerReport

    @property
    def num_right(self) -> int:
        """The number of rows whose option is the planted one."""
        return sum(self.found[row] == option for row, option in self.planted.items())


def search(problem: Problem, seed: int) -> Found:
    """Return what the search finds on the data of a network that ``seed`` draws.

    The student knows the teacher's stem and nothing else: its kernels are fresh, and its alphas start at 0.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(problem.num_scans, 1, *[problem.side] * 3, generator=generator)
    teacher, student = _network(problem, 2 * seed, images), _network(problem, 2 * seed + 1, images)
    student.stem.load_state_dict(teacher.stem.state_dict())
    _calibrate(student, images)
    rows = teacher.body.rows()
    picks = {name: int(torch.randint(len(row.options), (), generator=generator)) for name, row in rows.items()}
    labels = _labels(problem, teacher, picks, images, generator)
    task = Task(Volumes(images, labels, seed), problem.num_scans, 1, problem.num_organs, STRIDES, (problem.side,) * 3)
    report = DartsLearner(problem.learner).run(student, task, Context(np.random.default_rng(seed))).report
    alphas = {name.removeprefix("body.alphas."): row.detach().softmax(0) for name, row in student.alphas().items()}
    return Found(
        {name: row.options[picks[name]] for name, row in rows.items()},
        {name: row.options[int(alphas[name].argmax())] for name, row in rows.items()},
        {name: float(alphas[name].max()) for name in rows},
        report,
    )


def _network(problem: Problem, seed: int, images: Tensor) -> SegmentationNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SegmentationNet(get_space(problem.space).build(None))
    net.start_task(1, problem.num_organs)
    _calibrate(net, images)
    return net


@torch.no_grad()
def _calibrate(net: SegmentationNet, images: Tensor) -> None:
    calibrate(net.body, [(net.stem(images[:4], net.task["channels"]), STRIDES)])


@torch.no_grad()
def _labels(
    problem: Problem, teacher: SegmentationNet, picks: dict[str, int], images: Tensor, generator: torch.Generator
) -> Tensor:
    """Return labels (N, X, Y, Z): which of the standardised random maps of the discrete teacher's features is largest."""
    state: dict[str, Any] = teacher.body.state_dict()
    body = teacher.body.space.build(picks)
    body.load_state_dict({name: state[name] for name in body.state_dict()})
    features = teacher.with_body(body).features(images, STRIDES)[0]
    maps = torch.randn(problem.num_organs + 1, features.shape[1], generator=generator)
    scores = torch.einsum("kc,bcxyz->bkxyz", maps, features)
    mean, std = scores.mean((0, 2, 3, 4), keepdim=True), scores.std((0, 2, 3, 4), keepdim=True)
    return ((scores - mean) / std).argmax(1)
