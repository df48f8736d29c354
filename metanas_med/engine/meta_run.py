"""A meta-trained run: the starting point of adaptations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..meta import MetaState
from ..space import SpaceSettings, get_space, one_hot_alphas
from ..space.network import SegmentationNet
from .checkpoint import group, load_newest, load_state
from .learned import Learned
from .model_check import WRONG_VALUES, check_shapes
from .older import settings_of_today
from .settings import Settings
from .starts import find_start
from .state import build_network


@dataclass(frozen=True)
class MetaRun:
    """A meta-trained state and the settings of its training."""

    settings: Settings
    state: MetaState
    buffers: dict[str, torch.Tensor]
    sha256: str
    held_out: tuple[str, ...]
    train_tasks: tuple[str, ...]  #: its training data: dataset/organ, or dataset/unlabelled
    #: the first 12 digits of the SHA-256 of each training scan's voxels; empty: unknown, as in older runs
    scans: frozenset[str] = frozenset()
    learned: Learned | None = None  #: its alphas, those before a commitment if there was one; None: an older run

    @staticmethod
    def open(start: Path | str, which: str = "last") -> MetaRun:
        """Return the run that ``start`` means: the name of a shipped start, or the folder of a run (``find_start``)."""
        return MetaRun.load(find_start(start), which)

    @staticmethod
    def load(folder: Path | str, which: str = "last") -> MetaRun:
        """Return the ``last`` or ``best`` checkpoint of a meta-training folder; CheckpointError if it cannot be used.

        If ``last`` is damaged, the checkpoint before it takes its place after a warning.
        """
        load = load_newest if which == "last" else load_state
        tensors, note = load(Path(folder), which, "meta-state")
        try:
            settings = Settings.model_validate(settings_of_today(note["settings"]))
            _check_state(settings.space, tensors)
            scans = note.get("scans", {})
            _need_names(note["held_out"], note["train_tasks"], *scans.values())
            return MetaRun(
                settings,
                MetaState(group(tensors, "weights."), group(tensors, "alphas.")),
                group(tensors, "buffers."),
                note["sha256"],
                tuple(note["held_out"]),
                (*note["train_tasks"], *(f"{name}/unlabelled" for name in note.get("pretext", {}).get("sets", ()))),
                frozenset(scan for found in scans.values() for scan in found),
                Learned.of_note(note, group(tensors, "alphas.")),
            )
        except (*WRONG_VALUES, ConfigError, CheckpointError) as error:
            raise CheckpointError(f"{folder}/{which}.json cannot be used ({' '.join(str(error).split())[:200]})") from error

    def fresh(self, seed: int) -> MetaRun:
        """Return this run with new random weights but the same alphas and gains, as the start of training from scratch."""
        net = build_network(self.settings.space, seed)
        weights = {n: p.detach().clone() for n, p in net.weights().items()}
        return replace(self, state=MetaState(weights, self.state.alphas))

    def with_genotype(self, genotype: dict[str, Any]) -> MetaRun:
        """Return this run with one-hot alphas that select the architecture ``genotype``."""
        net = build_network(self.settings.space, self.settings.seed)
        one_hot_alphas(net.body, genotype)
        alphas = {n: p.detach().clone() for n, p in net.alphas().items()}
        return replace(self, state=MetaState(self.state.weights, alphas))


def _check_state(space: SpaceSettings, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError if the tensors of a state are not those of a network of ``space``; no memory is taken for it."""
    own = {
        name.partition(".")[2]: value
        for name, value in tensors.items()
        if name.startswith(("weights.", "alphas.", "buffers.")) and not name.partition(".")[2].startswith("task.")
    }
    check_shapes(lambda: _without_task(SegmentationNet(get_space(space).build(None))), own)


def _without_task(net: SegmentationNet) -> SegmentationNet:
    del net.task
    return net


def _need_names(*lists: Any) -> None:
    for names in lists:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("held_out, train_tasks and scans must be lists of names")
