"""Dice of adapted networks on whole query scans, in their own geometry; the fixed validation episodes of a meta-training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..ignored import IGNORED, known_only
from ..learner import NonFiniteLossError, Runtime
from ..meta import MetaState
from ..report.figures import overlay
from ..space.network import SegmentationNet
from ..tasks.distribution import TaskDistribution
from ..tasks.episode import Episode
from .predict import predict_labels
from .settings import Settings
from .solve import Solver

log = logging.getLogger(__name__)


def dice(truth: np.ndarray, prediction: np.ndarray, organ: int) -> float:
    """Return the Dice of one organ over the voxels that are not IGNORED; 1 if it is in neither map."""
    t, p = truth == organ, (prediction == organ) & (truth != IGNORED)
    total = int(t.sum()) + int(p.sum())
    return 2.0 * int((t & p).sum()) / total if total else 1.0


def query_dice(net: SegmentationNet, episode: Episode, runtime: Runtime, keep: dict[str, np.ndarray] | None = None) -> float:
    """Return the mean Dice over query scans and organs, whole volumes in native spacing; ``keep`` receives label maps by scan.

    Organs that are not annotated in a scan are left out.
    """
    values = []
    for scan in episode.query:
        prediction = predict_labels(net, scan.image, episode.plan, scan.truth.shape, runtime)
        if keep is not None:
            keep[scan.name] = prediction
        values += [dice(scan.truth, prediction, k) for k in range(1, episode.task.num_organs + 1) if k not in scan.missing]
    return float(np.mean(values))


class Validator:
    """The fixed validation episodes of a meta-training, drawn at first use, with the views of ``adapt``.

    ``generator(number, stream)`` returns the generator of episode ``number``: stream 0 draws it, stream 1 adapts to it.
    """

    def __init__(
        self, tasks: TaskDistribution, settings: Settings, runtime: Runtime, generator: Callable[[int, int], np.random.Generator]
    ) -> None:
        self.plan = settings.plan.of_adapt()
        self.tasks, self.settings, self.runtime, self.generator = replace(tasks, plan=self.plan), settings, runtime, generator
        self.episodes: list[Episode] = []
        self._shown: dict[str, np.ndarray] = {}  #: the last label maps of the first episode, for a picture

    def dice(self, solve: Solver, state: MetaState) -> float | None:
        """Return the mean query Dice after adaptations from ``state`` with the ``adapt`` settings; None without episodes."""
        self.episodes = self.episodes or self.drawn()
        solve = replace(solve, learner=self.settings.adapt, plan=self.plan, query_gradient="")
        values = []
        for number, episode in enumerate(self.episodes):
            try:
                adapted, _ = solve.run(solve.network(state), episode, self.generator(number, 1))
            except NonFiniteLossError:
                values.append(0.0)
                continue
            kept: dict[str, np.ndarray] | None = {} if number == 0 else None
            values.append(query_dice(adapted.net, episode, self.runtime, kept))
            self._shown = kept or self._shown
        return float(np.mean(values)) if values else None

    def draw(self, path: Path) -> bool:
        """Return whether a scan of the first episode, as last predicted, was drawn to ``path``; never without ``track.images``."""
        if not self.settings.track.images:
            return False
        for name, labels in self._shown.items():
            episode = self.episodes[0]
            scan = next(s for s in episode.query if s.name == name)
            image = self.tasks.datasets[episode.task.dataset].image(name)
            overlay(path, image[0], *known_only(scan.truth, labels), scan.spacing, "+".join(episode.task.names))
            return True
        return False

    def drawn(self) -> list[Episode]:
        """Return new draws of the episodes; too few usable data sets give fewer than ``meta.num_validation``, with a warning."""
        pool, wanted = self.tasks.validation or self.tasks.train, self.settings.meta.num_validation
        episodes: list[Episode] = []
        if not pool:  # a label-free run has no labels for a Dice
            return episodes
        for number in range(wanted * 4):
            episode = self.tasks.draw(self.generator(number, 0), pool, max(self.settings.tasks.shots))
            if episode.query:  # data sets with fewer than three patients have none
                episodes.append(episode)
            if len(episodes) == wanted:
                break
        if len(episodes) < wanted:
            log.warning(
                "%d of %d validation episodes: of %s, only data sets with at least three patients can validate",
                len(episodes),
                wanted,
                ", ".join(sorted({t.dataset for t in pool})),
            )
        return episodes
