"""The folder of a meta-training: what a checkpoint holds, how a run is resumed, what is tracked."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data.cards import load_cards
from ..errors import CheckpointError, DivergedError
from ..files import sha256_file, write_json
from ..learner.evidence import Trail
from ..meta import MetaState
from ..ownership import check_owned
from ..parse import no_file
from ..pretext import PretextSource
from ..privacy import HASH_DIGITS, public_name
from ..tasks.distribution import TaskDistribution
from ..tracking import open_tracker
from .changes import changed_data, changed_settings, describe_data
from .checkpoint import PREVIOUS, group, join, load_newest, load_state, save_state
from .learned import Learned
from .older import settings_of_today
from .settings import Settings

log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


@dataclass
class Counters:
    """The position of a run: iterations, seconds, failures, best validation."""

    iteration: int = 0
    seconds: float = 0.0
    waited: float = 0.0  #: seconds spent waiting for data
    num_bad: int = 0  #: tasks whose loss was not finite
    recent_bad: deque[int] = field(default_factory=lambda: deque(maxlen=100))
    best: float = -1.0
    committed: bool = False
    trail: Trail = field(default_factory=Trail)  #: the path of the alphas until the commitment
    learned: Learned | None = None  #: the alphas before the commitment

    def note_task(self, key: str, bad: str, limit: int) -> None:
        """Count a task; ``bad`` is the reason if it failed. DivergedError if more than ``limit`` of the last 100 failed."""
        self.recent_bad.append(int(bool(bad)))
        self.num_bad += bool(bad)
        if sum(self.recent_bad) > limit:
            raise DivergedError(
                f"{sum(self.recent_bad)} of the last {len(self.recent_bad)} tasks had a non-finite loss "
                f"(limit meta.max_bad_tasks {limit}); the last: {key}: {bad}. Lower learner.lr or features.lr, or check the data."
            )


def has_run(folder: Path) -> bool:
    """Return whether ``folder`` holds a checkpoint of a meta-training, intact or not."""
    return any((folder / f"{name}.json").exists() for name in ("last", PREVIOUS))


def check_no_run(folder: Path, resume: bool = False) -> None:
    """Raise CheckpointError if ``folder`` holds a model, or a run that would not be resumed."""
    if (folder / "model.json").exists():
        raise CheckpointError(f"{folder} already holds a model. Choose another --out.")
    if not resume and has_run(folder):
        raise CheckpointError(f"{folder} already holds a run; give --resume to continue it, or another folder")


class RunFolder:
    """A run's folder with its tracker.

    ``last`` is the state after the last complete iteration, ``best`` that of the best validation.
    """

    def __init__(self, path: Path, settings: Settings, tasks: TaskDistribution, pretexts: PretextSource | None) -> None:
        self.path, self.settings, self.tasks, self.pretexts = path, settings, tasks, pretexts
        #: all data sets ever trained on, across resumes
        self.learned_from = [t.key for t in tasks.train]
        self.unlabelled_sets = set(pretexts.usable) if pretexts else set()
        self._described: dict[str, str] | None = None
        #: hashes of all scans ever trained on, by data set, across resumes
        self.scans: dict[str, list[str]] = {}
        self._noted: set[str] = set()  #: the data sets whose scans are in ``scans``

    def check_free(self) -> None:
        """Raise CheckpointError if the folder already holds a run."""
        check_no_run(self.path)

    def open_tracker(self, resume: bool, iteration: int) -> None:
        """Write ``settings.json`` (of the last part of a resumed run) and start tracking after ``iteration``."""
        values = self.settings.model_dump(mode="json")
        write_json(self.path / "settings.json", values)
        track = self.settings.track
        self.tracker = open_tracker(
            self.path,
            wandb=track.wandb,
            project=track.project,
            name=track.name or None,
            kind="meta-train",
            resume=resume,
            private=private_names(self.tasks),
        )
        self.tracker.config(values)
        self.tracker.rewind("iteration", iteration + 1)

    def snapshot(
        self, state: MetaState, buffers: Tensors, features: Tensors, counters: Counters, meta: Tensors | None = None
    ) -> tuple[Tensors, dict[str, Any]]:
        """Return tensors and note of a checkpoint: everything that a resumed run needs.

        ``features``: moments of the feature steps. ``meta``: memory of the meta learner, if it has one.
        """
        tensors = join(weights=state.weights, alphas=state.alphas, buffers=buffers, features=features, meta=meta or {})
        note: dict[str, Any] = {
            "settings": without_paths(self.settings),
            "iteration": counters.iteration,
            "seconds": counters.seconds,
            "waited": counters.waited,
            "num_bad": counters.num_bad,
            "committed": counters.committed,
            "recent_bad": list(counters.recent_bad),
            "best": counters.best,
            "held_out": list(self.tasks.held_out),
            "train_tasks": self.learned_from,
            "validation_tasks": [t.key for t in self.tasks.validation],
            "data": self._data(),
            "scans": self._scans(),
        }
        if counters.learned:
            note["learned"] = counters.learned.to_json()
        elif counters.trail.count:
            note["trail"] = counters.trail.to_json()
        if self.unlabelled_sets or self.pretexts:
            note["pretext"] = {"sets": sorted(self.unlabelled_sets)}
        if self.pretexts:
            note["pretext"] |= {"scans": self.pretexts.num_scans, "set_aside": self.pretexts.num_set_aside}
        return tensors, note

    def _with_paths(self, noted: Mapping[str, Any]) -> dict[str, Any]:
        """Return a checkpoint's settings with the paths that it leaves out: those of ``settings.json``, else those of now."""
        now = (self.settings.cache, self.settings.tasks.distribution)
        cache, distribution = _noted_paths(self.path / "settings.json") or now
        return {**noted, "cache": cache, "tasks": {**noted.get("tasks", {}), "distribution": distribution}}

    def _data(self) -> dict[str, str]:
        """Return what the run learns from and is validated on."""
        if self._described is None:
            named = {t.dataset for t in (*self.tasks.train, *self.tasks.validation)} | set(
                self.pretexts.usable if self.pretexts else ()
            )
            self._described = describe_data([self.tasks.datasets[name] for name in sorted(named)])
        return self._described

    def _scans(self) -> dict[str, list[str]]:
        """Return the first digits of the hashes of all scans ever trained on, by data set; they say nothing of names."""
        for name in {t.dataset for t in self.tasks.train} | (set(self.pretexts.usable) if self.pretexts else set()):
            if name not in self._noted:
                own = {case.content_hash[:HASH_DIGITS] for case in self.tasks.datasets[name].cases}
                self.scans[name] = sorted(own.union(self.scans.get(name, ())))
                self._noted.add(name)
        return self.scans

    def save(self, name: str, snapshot: tuple[Tensors, dict[str, Any]]) -> None:
        """Write a checkpoint; the one before ``last`` is kept."""
        check_owned(self.path)
        save_state(self.path, name, "meta-state", *snapshot, keep=PREVIOUS if name == "last" else "")

    def load(self) -> tuple[MetaState, Tensors, Tensors, Counters, Tensors]:
        """Return state, buffers, moments of the features, counters and memory of the meta learner of ``last``.

        If ``last`` is damaged, the checkpoint before it takes its place after a warning. Another warning lists the settings and
        data sets that have changed. Raises CheckpointError if the run used other unlabelled scans or another space, or learned
        from data that are now held out.
        """
        tensors, note = load_newest(self.path, "last", "meta-state")
        sets = note.get("pretext", {}).get("sets", [])
        if self.pretexts and sets != (own := sorted(self.pretexts.usable)):
            raise CheckpointError(
                f"{self.path} learned from unlabelled scans of {', '.join(sets) or 'no data set'}, not of {', '.join(own)}; "
                "resume with the same data sets, or give another folder"
            )
        before = settings_of_today(note["settings"])["space"]
        now = self.settings.space.model_dump(mode="json")
        if changed := [key for key in sorted(before | now) if before.get(key) != now.get(key)]:
            told = "; ".join(f"space.{key} is {before.get(key)} there, {now.get(key)} now" for key in changed)
            raise CheckpointError(f"{self.path} was trained in another search space: {told}. Resume with its own settings.json.")
        self._check_seen(note["train_tasks"], sets)
        self.scans = {name: list(found) for name, found in note.get("scans", {}).items()}
        self._noted.clear()
        told = changed_settings(self._with_paths(note["settings"]), self.settings) + changed_data(note.get("data"), self._data())
        if told:
            log.warning("%s goes on with other settings than before: %s", self.path, "; ".join(told))
        counters = Counters(note["iteration"], note["seconds"], note["waited"], note["num_bad"], best=note["best"])
        counters.committed = note.get("committed", False)
        counters.recent_bad.extend(note["recent_bad"])
        counters.learned = Learned.from_json(note["learned"]) if "learned" in note else None
        counters.trail = Trail.from_json(note["trail"]) if "trail" in note else Trail()
        if counters.best >= 0:
            self._check_best(counters)
        state = MetaState(group(tensors, "weights."), group(tensors, "alphas."))
        return state, group(tensors, "buffers."), group(tensors, "features."), counters, group(tensors, "meta.")

    def _check_best(self, counters: Counters) -> None:
        """Forget the best validation, after a warning, if the state that had it cannot be used."""
        try:
            tensors, note = load_state(self.path, "best", "meta-state")
            own = self.path / "best.safetensors"
            if no_file(own) or sha256_file(own) != note["sha256"]:  # they were in another file, which the run replaces
                save_state(self.path, "best", "meta-state", tensors, note)
        except CheckpointError as error:
            told = str(error).split("; ")[0].split(". ")[0].split(" (")[0]
            log.warning("%s. The next validation replaces the best one", told)
            counters.best = Counters.best

    def _check_seen(self, train_tasks: list[str], sets: list[str]) -> None:
        """Add the training data of earlier parts of this run; CheckpointError if they are now held out or used for validation."""
        seen = {*sets, *(key.split("/", 1)[0] for key in train_tasks)}
        left_out = {"held out": set(self.tasks.held_out), "validation": {t.dataset for t in self.tasks.validation}}
        for use, names in left_out.items():
            if both := sorted(seen & names):
                raise CheckpointError(
                    f"{self.path} has learned from {', '.join(both)}, now {use}: the weights have seen these scans. "
                    "Start again in another folder."
                )
        self.learned_from = list(dict.fromkeys([*train_tasks, *self.learned_from]))
        self.unlabelled_sets |= set(sets)


def _noted_paths(path: Path) -> tuple[str, str] | None:
    """Return cache and distribution of a ``settings.json``; None if it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return str(values["cache"]), str(values["tasks"]["distribution"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def without_paths(settings: Settings) -> dict[str, Any]:
    """Return settings for a checkpoint, which people share: the cache and a distribution's file are without their folders.

    ``settings.json`` in the run's folder keeps the paths.
    """
    values = settings.model_dump(mode="json")
    values["cache"] = Settings.model_fields["cache"].default
    values["tasks"]["distribution"] = Path(values["tasks"]["distribution"]).stem
    return values


def private_names(tasks: TaskDistribution) -> dict[str, str]:
    """Return names of data sets (and of groups without a card) that are not sent, and the identifiers that replace them."""
    found: dict[str, str] = {}
    groups = {card.group for card in load_cards().values()}
    for name, dataset in tasks.datasets.items():
        public = public_name(name, [case.content_hash for case in dataset.cases])
        if public != name:
            found[name] = public
            if dataset.group not in groups:
                found.setdefault(dataset.group, public)
    return found
