"""What all cells share: the scans, fresh networks, and the draws of their tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...data.cached import CachedDataset
from ...engine.solve import open_task
from ...engine.state import build_network
from ...errors import DataError
from ...learner import Context, DartsLearner, DartsSettings, LearnerReport, Runtime
from ...learner.base import StepHook
from ...learner.episode import Task
from ...space import SpaceSettings, calibrate
from ...space.network import SegmentationNet
from ...tasks.episode import Episode, make_episode
from ...tasks.organ import OrganTask, task_in
from ..grid.cases import open_prepared, other_patients, query_cases, support_cases
from .settings import SpacesSettings


def cache_of(settings: SpacesSettings) -> Path:
    """Return the file of the prepared data set."""
    return Path(settings.cache) / f"{settings.dataset}.h5"


@dataclass(frozen=True)
class Data:
    """The scans of all cells: one support, and query scans of other patients."""

    dataset: CachedDataset
    task: OrganTask
    support: Sequence[str]
    query: Sequence[str]

    @classmethod
    def of(cls, settings: SpacesSettings) -> Data:
        """Return them; DataError where too few patients are left for the support."""
        dataset = open_prepared(str(cache_of(settings)))
        query = query_cases(dataset, settings.num_query)
        patient = {c.name: c.patient for c in dataset.cases}
        left = {patient[name] for name in other_patients(dataset, query)}
        if len(left) < settings.shots:
            raise DataError(
                f"{dataset.name}: {len(left)} patient(s) are left for a support of {settings.shots}. Lower num_query or shots."
            )
        task = task_in(dataset, settings.organ)
        return cls(dataset, task, support_cases(dataset, task, settings.shots, 0, query), query)

    def episode(self, settings: SpacesSettings, levels: int) -> Episode:
        """Return the support on the grid of its plan."""
        return make_episode(self.dataset, self.task, self.support, [], settings.plan.of_adapt(), levels)


def fresh_network(
    space: SpaceSettings, episode: Episode, settings: SpacesSettings, seed: int, runtime: Runtime
) -> SegmentationNet:
    """Return the supernet of a space, or a fixed network, with new weights and gains that are measured on a support scan."""
    net = build_network(space, int(_generator(seed, 0).integers(2**31))).to(runtime.device)
    task = task_of(settings, episode, seed, 5)
    net.start_task(task.num_channels, task.num_organs)
    with torch.no_grad():
        images = runtime.place(task.support.views(0).images[:1])
        calibrate(net.body, [(net.stem(images, net.task["channels"]), task.strides)])
    return net


def task_of(settings: SpacesSettings, episode: Episode, seed: int, part: int) -> Task:
    """Return the support as a learner sees it, with draws of its own for each ``part`` of a cell."""
    return open_task(episode, settings.plan.of_adapt(), _generator(seed, 10 + part))[0]


def learn(
    learner: DartsSettings,
    net: SegmentationNet,
    task: Task,
    seed: int,
    part: int,
    runtime: Runtime,
    on_step: StepHook | None = None,
) -> tuple[SegmentationNet, LearnerReport]:
    """Return the network that a learner makes of ``net``, and its report."""
    adapted = DartsLearner(learner).run(net, task, Context(_generator(seed, 50 + part), runtime, on_step))
    return adapted.net, adapted.report


def _generator(seed: int, part: int) -> np.random.Generator:
    """Return the generator of a seed: the same for all spaces and learners."""
    return np.random.default_rng([seed, 83, part])
