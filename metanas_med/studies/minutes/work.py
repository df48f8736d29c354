"""The work of a cell: a method has its time for a support, then its model segments the query scans."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.cached import CachedDataset
from ...engine.adapt import AdaptSettings, mean_of, score
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...engine.minutes.run import adapt_minutes
from ...engine.model import Model
from ...engine.starts import find_start
from ...engine.validate import dice
from ...errors import DataError
from ...machine import cpu_model, num_cores
from ...tasks.episode import check_patients
from ...tasks.organ import OrganTask, organ_map, task_in
from ..benchmark.guards import check_held_out
from ..benchmark.nnunet import fit_nnunet
from ..benchmark.pretrain import fresh_run
from ..grid.cases import hash_names, open_prepared, open_run, other_patients, query_cases, support_cases
from ..grid.cells import write_cell
from ..grid.frozen import hash_settings
from .cells import Cell
from .note import Told, told_by
from .settings import MinutesStudySettings

COLUMNS = (
    "dataset", "group", "method", "shots", "budget_seconds", "draw", "dice", "dice_by_scan", "seconds", "steps", "tta", "chosen",
    "expected", "expected_low", "expected_high", "num_query", "seed", "support_hash", "checkpoint", "settings", "threads", "device",
    "code", "machine",
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What a cell adapts to."""

    dataset: CachedDataset
    task: OrganTask
    support: Sequence[str]
    query: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """Dice by query scan and organ, and what the method did."""

    dice: dict[str, dict[str, float]]
    seconds: float
    checkpoint: str
    steps: int | str = ""
    tta: bool = False
    told: Told = field(default_factory=Told)
    note: Mapping[str, Any] = field(default_factory=dict)


def measure(job: tuple[MinutesStudySettings, Cell]) -> None:
    """Write the record of a cell, unless it exists. Where it fails, write why: the other cells go on."""
    settings, cell = job
    write_cell(settings, cell, lambda: measured(settings, cell))


def set_up(settings: MinutesStudySettings, cell: Cell) -> Setup:
    """Return what a cell adapts to. A draw has the same support in every method, budget and benchmark of as many query scans."""
    dataset = open_prepared(str(Path(settings.cache) / f"{cell.dataset}.h5"))
    task, query = task_in(dataset), query_cases(dataset, settings.num_query)
    patient = {c.name: c.patient for c in dataset.cases}
    left = len({patient[n] for n in other_patients(dataset, query)})
    if left < cell.shots:
        raise DataError(f"{dataset.name}: {left} patient(s) are left for a support of {cell.shots}. Lower num_query or shots.")
    support = support_cases(dataset, task, cell.shots, cell.draw, query)
    check_patients(dataset, support, query)
    return Setup(dataset, task, support, query)


def start_of(settings: MinutesStudySettings, cell: Cell) -> MetaRun:
    """Return what a cell starts from: fresh weights have another seed in every draw."""
    if cell.method == "joint":
        return open_run(str(find_start(settings.joint)))
    whole = open_run(str(find_start(settings.start)))
    if cell.method != "fresh":
        return whole
    seed = whole.settings.seed + 1000 + cell.draw
    if settings.joint:
        return open_run(str(find_start(settings.joint))).fresh(seed)
    return fresh_run(whole.settings, settings.unet, (), seed)


def measured(settings: MinutesStudySettings, cell: Cell) -> dict[str, Any]:
    """Return the record of a cell: its row, and the method's own note."""
    begin, code, setup = time.perf_counter(), code_revision(), set_up(settings, cell)
    threads = settings.threads or max(num_cores() // settings.workers, 1)
    torch.set_num_threads(threads)  # other grids have one thread a cell
    found = _nnunet(settings, cell, setup) if cell.method == "nnunet" else _ours(settings, cell, setup)
    scans = [float(np.mean([*by_organ.values()])) for by_organ in found.dice.values() if by_organ]
    row = {
        "dataset": cell.dataset,
        "group": setup.dataset.group,
        "method": cell.method,
        "shots": cell.shots,
        "budget_seconds": f"{cell.seconds:g}",
        "draw": cell.draw,
        "dice": round(mean_of(found.dice) or 0.0, 5),
        "dice_by_scan": " ".join(f"{value:.5f}" for value in scans),
        "seconds": round(found.seconds, 2),
        "steps": found.steps,
        "tta": int(found.tta),
        "chosen": found.told.chosen,
        "expected": found.told.expected,
        "expected_low": found.told.low,
        "expected_high": found.told.high,
        "num_query": len(setup.query),
        "seed": cell.draw,
        "support_hash": hash_names(setup.support),
        "checkpoint": found.checkpoint,
        "settings": hash_settings(settings.search, settings.search_alone),
        "threads": threads,
        "device": settings.device,
        "code": code,
        "machine": cpu_model(),
    }
    took = round(time.perf_counter() - begin, 1)
    return {"row": row, "query": found.dice, "support": list(setup.support), "note": found.note, "cell_seconds": took}


def _ours(settings: MinutesStudySettings, cell: Cell, setup: Setup) -> Outcome:
    """Return what ``adapt --minutes`` makes of a start, or the same without a search."""
    start, whole = start_of(settings, cell), open_run(str(find_start(settings.start)))
    for run in (start, whole):
        if run.train_tasks:
            check_held_out({setup.dataset.name: setup.dataset}, run, cell.dataset)
    searches = cell.method == "minutes"
    how = AdaptSettings(
        support=tuple(setup.support),
        evaluate=0,
        seed=cell.draw,
        learner=whole.settings.adapt,  # the same for all methods
        plan=whole.settings.plan.of_adapt(),
        device=settings.device,
        images=False,
    )
    search = settings.search if searches else settings.search_alone
    settings.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=settings.folder) as folder:
        portfolio, minutes = find_start(settings.start) if searches else None, cell.seconds / 60
        begin = time.perf_counter()
        note = adapt_minutes(start, setup.dataset, Path(folder) / "model", minutes, how, search, portfolio=portfolio)
        seconds = time.perf_counter() - begin
        model = Model.load(Path(folder) / "model")
        tta = model.tta if searches else settings.tta
        found = score(model, setup.dataset, setup.query, tta)
    told = told_by(note) if searches else Told()
    own = {key: value for key, value in note.items() if key in ("minutes", "seconds", "settings")}
    return Outcome(found, seconds, start.sha256[:16], note["report"]["steps"], tta, told, own)


def _nnunet(settings: MinutesStudySettings, cell: Cell, setup: Setup) -> Outcome:
    """Return what nnU-Net makes of the support; its time is that of training, without planning and prediction."""
    device = "cuda" if settings.device.startswith("cuda") else "cpu"
    with tempfile.TemporaryDirectory(prefix="metanas_med_nnunet_") as folder:
        made = fit_nnunet(setup.dataset, setup.task, setup.support, setup.query, cell.seconds, Path(folder), device)
    found = {}
    for name in setup.query:
        truth = organ_map(setup.dataset, setup.task, name)
        missing = setup.task.missing_in(next(c for c in setup.dataset.cases if c.name == name))
        organs = [(k, organ) for k, organ in enumerate(setup.task.names, start=1) if k not in missing]
        found[name] = {organ: dice(truth, made.labels[name], k) for k, organ in organs}
    return Outcome(found, made.seconds, "nnU-Net", made.iterations)
