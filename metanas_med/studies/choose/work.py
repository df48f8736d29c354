"""The work of a cell: two adaptations with other seeds, their Dice on the query scans, and the scores of the configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.cached import CachedDataset
from ...data.settings import PlanSettings
from ...engine.adapt import adapt_episode, mean_of, score
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...engine.model import Model
from ...engine.starts import find_start
from ...errors import DataError
from ...learner import LearnerSettings, Runtime, choose_runtime
from ...machine import cpu_model
from ...space import cost
from ...tasks.episode import Episode, check_patients, make_episode
from ...tasks.organ import OrganTask, task_in
from ..benchmark.guards import check_held_out
from ..grid.cases import hash_names, open_run, other_patients, query_cases, support_cases
from ..grid.cells import write_cell
from ..grid.frozen import hash_settings
from .cells import Cell
from .data import open_datasets
from .paces import steps_of
from .scores import FOLDS, Scored, score_all
from .settings import ChooseSettings

#: columns of a row; those of scores follow, as ``score NAME`` and ``seconds NAME``
COLUMNS = (
    "dataset", "group", "draw", "configuration", "picks", "dice_first", "dice_second", "step_seconds", "processor_seconds",
    "multiply_adds", "parameters", "scans_folds", "steps", "shots", "num_query", "seed", "support_hash", "checkpoint", "settings",
    "code", "machine",
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What a cell adapts, to what, and how."""

    run: MetaRun
    learner: LearnerSettings
    plan: PlanSettings
    dataset: CachedDataset
    task: OrganTask
    support: Sequence[str]
    query: Sequence[str]
    seed: int
    runtime: Runtime

    def episode(self, names: Sequence[str] = ()) -> Episode:
        """Return the episode of the cases ``names``, by default of the whole support."""
        return make_episode(self.dataset, self.task, names or self.support, [], self.plan, self.run.settings.space.levels)


def measure(job: tuple[ChooseSettings, Cell]) -> None:
    """Write the record of a cell, unless it exists. Where it fails, write why: the other cells go on."""
    settings, cell = job
    write_cell(settings, cell, lambda: measured(settings, cell))


def start_of(settings: ChooseSettings, dataset: str = "") -> MetaRun:
    """Return the start of the cells of a data set, which this process keeps in memory."""
    return open_run(str(find_start(settings.starts.get(dataset, settings.start))))


def set_up(settings: ChooseSettings, cell: Cell) -> Setup:
    """Return what a cell adapts; DataError where the start has seen the data set, or too few patients are left."""
    whole, datasets = start_of(settings, cell.dataset), open_datasets(settings)
    check_held_out(datasets, whole, cell.dataset)
    dataset = datasets[cell.dataset]
    task, query = task_in(dataset), query_cases(dataset, settings.num_query)
    patient = {c.name: c.patient for c in dataset.cases}
    left = len({patient[n] for n in other_patients(dataset, query)})
    if left < settings.shots:
        raise DataError(
            f"{dataset.name}: {left} patient(s) are left for a support of {settings.shots}. Lower num_query or shots."
        )
    support = support_cases(dataset, task, settings.shots, cell.draw, query)
    check_patients(dataset, support, query)
    given = whole.settings.adapt.model_copy(update={"steps": steps_of(settings, cell.configuration, settings.steps)})
    run, learner, plan = cell.configuration.apply(whole, given, whole.settings.plan.of_adapt())
    return Setup(run, learner, plan, dataset, task, support, query, 10 * cell.draw, choose_runtime("cpu"))


def measured(settings: ChooseSettings, cell: Cell) -> dict[str, Any]:
    """Return the record of a cell: its row, and Dice by scan."""
    begin, code, setup = time.perf_counter(), code_revision(), set_up(settings, cell)
    episode = setup.episode()
    runs = [_adapted(setup, episode, setup.seed + number) for number in range(2)]
    found = score_all(setup, episode, settings, steps_of(settings, cell.configuration, settings.fold_steps))
    counted = cost(runs[0].model.net.body, episode.plan.view, episode.plan.strides)
    row = {
        "dataset": cell.dataset,
        "group": setup.dataset.group,
        "draw": cell.draw,
        "configuration": cell.configuration.name,
        "picks": json.dumps(dict(sorted(cell.configuration.picks.items()))),
        "dice_first": round(mean_of(runs[0].dice) or 0.0, 5),
        "dice_second": round(mean_of(runs[1].dice) or 0.0, 5),
        "step_seconds": round(float(np.median([run.step_seconds for run in runs])), 4),
        "processor_seconds": round(float(np.mean([run.processor_seconds for run in runs])), 3),
        "multiply_adds": counted["multiply_adds"],
        "parameters": counted["parameters"],
        "scans_folds": _scans(found),
        "steps": setup.learner.steps,
        "shots": len(setup.support),
        "num_query": len(setup.query),
        "seed": setup.seed,
        "support_hash": hash_names(setup.support),
        "checkpoint": start_of(settings, cell.dataset).sha256[:16],
        "settings": hash_settings(setup.learner, setup.plan),
        "code": code,
        "machine": cpu_model(),
    }
    for name, one in found.items():
        row |= {f"score {name}": one.value, f"seconds {name}": round(one.seconds, 3)}
    scans = [{name: round(float(np.mean([*by_organ.values()])), 5) for name, by_organ in run.dice.items()} for run in runs]
    return {"row": row, "query": scans, "support": list(setup.support), "cell_seconds": round(time.perf_counter() - begin, 1)}


@dataclass(frozen=True)
class _Run:
    model: Model
    dice: dict[str, dict[str, float]]  #: by query scan and organ
    step_seconds: float
    processor_seconds: float


def _adapted(setup: Setup, episode: Episode, seed: int) -> _Run:
    """Return an adaptation, its Dice on the query scans, and its times."""
    marks: list[float] = []
    before = time.process_time()
    model, _, _ = adapt_episode(
        setup.run, episode, setup.learner, setup.plan, seed, setup.runtime, lambda step, loss: marks.append(time.perf_counter())
    )
    processor = time.process_time() - before
    # the first step warms up; with a single step its time is not known
    gaps = np.diff(marks) if len(marks) > 1 else np.array([0.0])
    return _Run(model, score(model, setup.dataset, setup.query), float(np.median(gaps)), processor)


def _scans(found: Mapping[str, Scored]) -> str:
    """Return Dice of the score ``folds`` by left-out scan, in the order of the support, as one text."""
    return " ".join(f"{value:.5f}" for value in found[FOLDS].scans) if FOLDS in found else ""
