"""The trainings of the study, and its cells: one adaptation from a start, scored on other scans."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ...data.cached import CachedDataset, open_caches
from ...data.settings import PlanSettings
from ...engine.adapt import adapt_episode, mean_of, score
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...engine.settings import Settings
from ...errors import DataError, StorageError
from ...files import write_json, write_text
from ...learner import DartsSettings, choose_runtime
from ...machine import cpu_model
from ...tasks.episode import Episode, make_episode
from ...tasks.organ import task_in
from ..benchmark.guards import check_held_out
from ..grid.cases import hash_names, open_run, other_patients, query_cases, support_cases
from ..grid.cells import write_cell
from ..grid.frozen import NOT_FROZEN, differences, hash_settings
from ..grid.training import DONE, train_to_the_end
from .settings import StartSettings

log = logging.getLogger(__name__)

#: the name of the baseline in the column ``recipe``
FRESH = "fresh"
COLUMNS = (
    "recipe", "seed", "fold", "final", "dataset", "group", "draw", "steps", "dice", "seconds", "processor_seconds", "shots",
    "num_query", "support_hash", "train_seconds", "iterations", "train_processor_seconds", "num_sets", "base_width",
    "parameters", "checkpoint", "settings", "meta_code", "code", "machine", "about", "series",
)  # fmt: skip


@dataclass(frozen=True)
class Training:
    """One meta-training."""

    recipe: str
    fold: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.fold}-seed{self.seed}"

    def folder(self, settings: StartSettings) -> Path:
        return settings.folder / "runs" / self.name

    def failure(self, settings: StartSettings) -> Path:
        """Return the file that says why the training failed."""
        return settings.folder / "runs" / f"{self.name}.failed"

    def is_done(self, settings: StartSettings) -> bool:
        return (self.folder(settings) / DONE).exists()


@dataclass(frozen=True)
class Cell:
    """One adaptation from the start of ``training``, or from fresh weights of its network of base width ``fresh``.

    ``own``: fresh weights that are listed under the name of the recipe, not as the baseline of all recipes.
    """

    training: Training
    dataset: str
    draw: int
    steps: int
    fresh: int = 0
    own: bool = False

    @property
    def name(self) -> str:
        baseline = f"{FRESH}-{self.training.name}" if self.own else f"{FRESH}{self.fresh}-{self.training.fold}"
        start = baseline if self.fresh else self.training.name
        return f"{start}-{self.dataset}-draw{self.draw}-{self.steps}"

    @property
    def file(self) -> str:
        return f"{self.name}.json"

    @property
    def recipe(self) -> str:
        """Return the name of its start in the column ``recipe``."""
        return f"{FRESH}-{self.training.recipe}" if self.own else FRESH if self.fresh else self.training.recipe


def train(job: tuple[StartSettings, Training]) -> None:
    """Meta-train, or resume, or use a run that has its iterations. Where it fails, write why: the other jobs go on."""
    settings, training = job
    torch.set_num_threads(1)
    folder, note = training.folder(settings), training.failure(settings)
    own = settings.settings_of(training.recipe, training.fold, training.seed)
    try:
        if not training.is_done(settings) and not adopted(folder, own):
            train_to_the_end(own, folder)
        note.unlink(missing_ok=True)
    except StorageError:
        raise  # the other trainings could not be written, either
    except Exception as error:
        log.warning("%s failed", training.name, exc_info=True)
        write_text(note, f"{type(error).__name__}: {error}\n")


def adopted(folder: Path, own: Settings) -> bool:
    """Return whether ``folder`` holds a run of as many iterations (to 2 %), and note it as done. Its processor time is unknown."""
    path = folder / "last.json"
    last = json.loads(path.read_text()) if path.exists() else {}
    if last.get("iteration", 0) < 0.98 * own.meta.iterations:
        return False
    taken = {"iterations": last["iteration"], "seconds": float(last["seconds"]), "processor_seconds": "", "resumed": False}
    write_json(folder / DONE, {**taken, "code": last["code"]})
    return True


def warn_of_other_settings(settings: StartSettings, training: Training) -> None:
    """Warn where a finished training has other settings than its recipe has now."""
    own = settings.settings_of(training.recipe, training.fold, training.seed)
    made = open_run(str(training.folder(settings))).settings
    # the guard checks what was held out; a distribution is a path
    places: Any = {"tasks": {"distribution", "hold_out", "validation"}, **dict.fromkeys(NOT_FROZEN, True)}
    if different := differences(made.model_dump(mode="json", exclude=places), own.model_dump(mode="json", exclude=places)):
        log.warning("%s was trained under another setting of %s", training.name, ", ".join(different[:3]))


def measure(job: tuple[StartSettings, Cell]) -> None:
    """Write the row of a cell, unless it exists. Where it fails, write why: the other cells go on."""
    settings, cell = job
    write_cell(settings, cell, lambda: _measured(settings, cell))


def adaptation() -> tuple[Any, PlanSettings]:
    """Return the settings of the learner and of the plan that ``adapt`` has by default, with a search."""
    return DartsSettings(), PlanSettings().of_adapt()


@lru_cache(maxsize=1)
def _datasets(cache: str) -> Mapping[str, CachedDataset]:
    return open_caches(Path(cache))


@lru_cache(maxsize=4)
def _episode(cache: str, name: str, draw: int, shots: int, num_query: int, levels: int) -> tuple[Episode, list[str], list[str]]:
    """Return an episode of a data set, with the names of its support and of the query cases."""
    dataset = _datasets(cache)[name]
    task, query = task_in(dataset), query_cases(dataset, num_query)
    patient = {c.name: c.patient for c in dataset.cases}
    left = len({patient[n] for n in other_patients(dataset, query)})
    if not left:
        raise DataError(f"{name} has {len(query)} patients, and all are scored. Lower num_query.")
    support = support_cases(dataset, task, min(shots, left), draw, query)
    return make_episode(dataset, task, support, [], adaptation()[1], levels), support, query


def _measured(settings: StartSettings, cell: Cell) -> dict[str, Any]:
    training = cell.training
    run = open_run(str(training.folder(settings)))
    datasets = _datasets(settings.cache)
    check_held_out(datasets, run, cell.dataset)
    learner, plan = adaptation()
    sizes = settings.shots, settings.num_query, run.settings.space.levels
    episode, support, query = _episode(settings.cache, cell.dataset, cell.draw, *sizes)
    state = run.fresh(1000 + cell.draw) if cell.fresh else run
    before = time.process_time()
    steps = learner.model_copy(update={"steps": cell.steps})
    model, report, _ = adapt_episode(state, episode, steps, plan, cell.draw, choose_runtime("cpu"))
    processor = time.process_time() - before
    dice = mean_of(score(model, datasets[cell.dataset], query))
    return {
        "recipe": cell.recipe,
        "seed": "" if cell.fresh else training.seed,
        "fold": training.fold,
        "final": int(settings.folds[training.fold].final),
        "dataset": cell.dataset,
        "group": datasets[cell.dataset].group,
        "draw": cell.draw,
        "steps": cell.steps,
        "dice": round(dice or 0.0, 4),
        "seconds": round(report.seconds, 2),
        "processor_seconds": round(processor, 2),
        "shots": len(support),
        "num_query": len(query),
        "support_hash": hash_names(support),
        **_learned(training.folder(settings), run, cell.fresh > 0),
        "settings": hash_settings(learner, plan),
        "code": code_revision(),
        "machine": cpu_model(),
    }


def _learned(folder: Path, run: MetaRun, fresh: bool) -> dict[str, Any]:
    """Return what a row says of the training in ``folder``; fresh weights learned nothing, but have its network."""
    done, last = (json.loads((folder / name).read_text()) for name in (DONE, "last.json"))
    learned = {
        "train_seconds": round(done["seconds"], 1),
        "iterations": done["iterations"],
        "train_processor_seconds": done["processor_seconds"],
        "num_sets": len({key.split("/", 1)[0] for key in run.train_tasks}),
    }
    return (dict.fromkeys(learned, 0) if fresh else learned) | {
        "base_width": run.settings.space.base_width,
        "parameters": sum(value.numel() for value in run.state.weights.values()),
        "checkpoint": run.sha256[:16],
        "meta_code": last["code"],
    }
