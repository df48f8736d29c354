"""The work of a cell: a search, a training from fresh weights, or the price of a step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ...engine.adapt import mean_of, score
from ...engine.checkpoint import code_revision
from ...engine.model import Model
from ...errors import ConfigError, DataError
from ...learner import LearnerReport, Runtime, choose_runtime
from ...machine import cpu_model
from ...space import SpaceSettings, cost, derive, hash_genotype, random_genotype, random_genotype_of_cost, unet_of_cost
from ...tasks.episode import Episode
from ..grid.cases import hash_names
from ..grid.cells import write_cell
from ..grid.frozen import hash_settings
from .cells import RANDOM, SEARCH, STEP, Cell, target_cost
from .learners import search_settings
from .settings import SpacesSettings
from .shared import Data, fresh_network, learn, task_of
from .step import measure_step

#: columns of a row; a kind of cell leaves those blank that it does not measure
COLUMNS = (
    "kind", "space", "what", "number", "edge", "step_seconds", "step_mb", "held_mb", "search_seconds", "parameters", "multiply_adds", "target",
    "dice", "genotype", "steps", "dataset", "num_support", "num_query", "support_hash", "seed", "checkpoint", "settings", "code",
    "machine", "reason",
)  # fmt: skip
#: a random architecture costs as much as what it is compared with, within this share; the second is tried where the first finds none
TOLERANCES = (0.1, 0.25)


def work(job: tuple[SpacesSettings, Cell]) -> None:
    """Write the record of a cell, unless it exists. Where it fails, write why: the other cells go on."""
    settings, cell = job
    write_cell(settings, cell, lambda: run_cell(settings, cell))


def run_cell(settings: SpacesSettings, cell: Cell) -> dict[str, Any]:
    """Return the record of a cell: its row, and details."""
    begin, code, data = time.perf_counter(), code_revision(), Data.of(settings)
    found = measure_step(settings, cell) if cell.kind == STEP else _trained(settings, cell, data)
    row = dict.fromkeys(COLUMNS, "") | asdict(cell) | found.pop("row")
    row |= {
        "dataset": data.dataset.name,
        "num_support": len(data.support),
        "num_query": len(data.query),
        "support_hash": hash_names(data.support),
        "seed": cell.number,
        "checkpoint": "none",
        "settings": hash_settings(settings.space(cell.space), settings.train, settings.plan),
        "code": code,
        "machine": cpu_model(),
    }
    return {"cell": asdict(cell), "row": row, **found, "cell_seconds": round(time.perf_counter() - begin, 2)}


def _trained(settings: SpacesSettings, cell: Cell, data: Data) -> dict[str, Any]:
    """Return what a network that was searched, drawn or given reaches from fresh weights."""
    space, runtime = settings.space(cell.space), choose_runtime("cpu")
    episode = data.episode(settings, space.levels)
    row: dict[str, Any] = {"steps": settings.steps}
    found: Mapping[str, Any] | None = None
    if cell.kind == SEARCH:
        found, report, seconds = _searched(settings, cell, space, episode, runtime)
        row |= {"search_seconds": round(seconds, 2)}
        note: dict[str, Any] = {"undecided": report.undecided, "rows": report.num_rows}
    else:
        target, note = target_cost(settings, cell), {}
        row |= {"target": "" if target is None else round(target)}
        if cell.kind == RANDOM:
            found = _drawn(space, target, episode, cell.number)
        else:
            space = settings.plain() if target is None else unet_of_cost(space, target, episode.plan.view, episode.plan.strides)
    net = fresh_network(space, episode, settings, cell.number, runtime)
    if found is not None:
        net = net.with_body(derive(net.body, found))
    learner = settings.train.model_copy(update={"steps": settings.steps, "alpha": "frozen"})
    task = task_of(settings, episode, cell.number, 1)
    net, _ = learn(learner, net, task, cell.number, 2, runtime)
    net.eval()
    counted = cost(net.body, episode.plan.view, episode.plan.strides)
    model = Model(net, episode.plan, data.task, space, dict(found) if found else None, runtime)
    dice = score(model, data.dataset, data.query)
    row |= {**counted, "dice": round(mean_of(dice) or 0.0, 5), "genotype": hash_genotype(found) if found else ""}
    scans = [round(float(np.mean([*by_organ.values()])), 5) for by_organ in dice.values()]
    return {"row": row, "picks": found["picks"] if found else {}, "query": scans, "learner": note}


def _searched(
    settings: SpacesSettings, cell: Cell, space: SpaceSettings, episode: Episode, runtime: Runtime
) -> tuple[dict[str, Any], LearnerReport, float]:
    """Return the genotype that a search finds from fresh weights, its report, and its processor seconds."""
    net = fresh_network(space, episode, settings, cell.number, runtime)
    learner, task = search_settings(settings, cell.what), task_of(settings, episode, cell.number, 3)
    begin = time.process_time()
    _, report = learn(learner, net, task, cell.number, 4, runtime)
    assert report.genotype is not None
    return report.genotype, report, time.process_time() - begin


def _drawn(space: SpaceSettings, target: float | None, episode: Episode, number: int) -> dict[str, Any]:
    """Return a random architecture of the ``target`` cost, or of any."""
    if target is None:
        return random_genotype(space, torch.Generator().manual_seed(number))
    view, strides, reason = episode.plan.view, episode.plan.strides, ""
    for tolerance in TOLERANCES:
        try:
            generator = torch.Generator().manual_seed(number)
            return random_genotype_of_cost(space, target, tolerance, view, strides, generator, tries=1000)
        except ConfigError as error:
            reason = str(error)
    raise DataError(f"{space.name}: {reason}")
