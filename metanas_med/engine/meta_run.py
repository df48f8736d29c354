"""A meta-trained run: the starting point of adaptations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError, suggest
from ..meta import MetaState
from ..space import SpaceSettings, get_space, one_hot_alphas
from ..space.genotype import ONE_HOT
from ..space.network import SegmentationNet
from .checkpoint import group, load_newest, load_state
from .learned import Learned
from .model_check import WRONG_VALUES, check_shapes
from .older import settings_of_today
from .settings import Settings
from .starts import find_start
from .state import build_network, part_of_state


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

    def narrowed(self, chosen: Mapping[str, str]) -> MetaRun:
        """Return the run of the network that the options ``chosen`` of the space's rows leave; the others keep their first option.

        Sampled rows make a smaller supernet, whose tensors are leading parts (space/narrow.py). Relaxed rows become one-hot.
        Raises ConfigError for a row or an option that the start does not offer.
        """
        space = get_space(self.settings.space)
        rows = space.rows()
        for name, option in chosen.items():
            if name not in rows:
                raise ConfigError(
                    f"the start has no row {name!r}: it was trained in the space {self.settings.space.name}; {suggest(name, rows)}"
                )
            if option not in rows[name].options:
                raise ConfigError(f"the start has no {name} = {option}; it offers {', '.join(rows[name].options)}")
        sizes = {name: option for name, option in chosen.items() if rows[name].type == "sampled"}
        run = self
        if sizes:
            settings, state, buffers = part_of_state(self.settings.space, self.state, self.buffers, sizes)
            run = replace(self, settings=self.settings.model_copy(update={"space": settings}), state=state, buffers=buffers)
        picks = {name: option for name, option in chosen.items() if rows[name].type != "sampled"}
        return run.with_picks(picks) if picks else run

    def with_picks(self, chosen: Mapping[str, str]) -> MetaRun:
        """Return this run with one-hot alphas at the options ``chosen`` of relaxed rows; other rows keep theirs."""
        rows = get_space(self.settings.space).rows()
        alphas = dict(self.state.alphas)
        for name, option in chosen.items():
            if (key := f"body.alphas.{name}") in alphas:
                alphas[key] = torch.zeros_like(alphas[key])
                alphas[key][rows[name].options.index(option)] = ONE_HOT
        return replace(self, state=MetaState(self.state.weights, alphas))

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
