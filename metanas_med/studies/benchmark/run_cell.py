"""One cell: fit, segment the query cases in their own geometry, score; one row a case and organ."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...data.cache import open_caches
from ...engine.checkpoint import code_revision
from ...engine.metrics import case_metrics, nsd_tolerance
from ...ignored import known_only
from ...space import hash_genotype
from ...tasks.episode import check_patients
from ...tasks.organ import organ_map
from ..grid.cases import hash_names
from ..grid.cells import wait_for, write_cell
from .cells import Cell
from .fit import Fitted, fit, start_of
from .guards import check_held_out
from .job import Job, look_up
from .settings import BenchmarkSettings

COLUMNS = (
    "held_out", "development", "dataset", "target", "organ", "method", "shots", "steps", "budget", "draw", "seed", "case", "dice", "nsd",
    "hd95_mm", "seconds", "gradient_evaluations", "parameters", "multiply_adds", "gap_at_switch", "gap_at_end", "architecture", "unlabelled",
    "support_hash", "device", "code", "checkpoint",
)  # fmt: skip


def work(job: tuple[BenchmarkSettings, Cell]) -> None:
    """Make one cell's file, unless it exists; where that fails, note why."""
    settings, cell = job

    def make() -> dict[str, Any]:
        if cell.reference:
            wait_for(settings, cell.reference)
        return run_cell(settings, cell)

    write_cell(settings, cell, make)


def run_cell(settings: BenchmarkSettings, cell: Cell) -> dict[str, Any]:
    """Return the rows and the details of one cell."""
    begin, code = time.perf_counter(), code_revision()  # now: a later commit is not the code that trains
    job = look_up(settings, cell)
    check_patients(job.dataset, job.support, job.query)
    start = start_of(job)
    if start.train_tasks:
        check_held_out(open_caches(Path(settings.run.cache)), start, job.dataset.name)
    found = fit(job, start)
    measured = score_maps(job, found)
    common = {
        "held_out": cell.group,
        "development": int(job.group.development),
        "dataset": cell.dataset,
        "target": cell.target,
        "method": cell.method,
        "shots": cell.shots,
        "steps": found.steps,
        "budget": cell.time,
        "draw": cell.draw,
        "seed": cell.seed,
        "seconds": round(found.seconds, 3),
        "gradient_evaluations": found.gradient_evaluations,
        "parameters": _blank(found.parameters),
        "multiply_adds": _blank(found.multiply_adds),
        **{key: _blank(found.report.get(key)) for key in ("gap_at_switch", "gap_at_end")},
        "architecture": architecture_hash(found.report.get("genotype")),
        "unlabelled": found.report.get("unlabelled", {}).get("num_scans", 0),
        "support_hash": hash_names(job.support),
        "device": job.runtime.device.type,
        "code": code,
        "checkpoint": found.checkpoint,
    }
    return {
        "cell": asdict(cell),
        "rows": [{**common, **row} for row in measured],
        "support": list(job.support),
        "cell_seconds": round(time.perf_counter() - begin, 3),
        "budget_seconds": round(job.budget, 3),
        "report": found.report,
    }


def score_maps(job: Job, found: Fitted) -> list[dict[str, Any]]:
    """Return organ, case, dice, nsd and hd95_mm of whole scans in their own geometry."""
    spacing = {case.name: case.spacing for case in job.dataset.cases}
    missing = {case.name: job.task.missing_in(case) for case in job.dataset.cases}  # not annotated: no row
    rows = []
    for name in job.query:
        truth, labels = known_only(organ_map(job.dataset, job.task, name), found.segment(name))
        for number, organ in enumerate(job.task.names, start=1):
            if number in missing[name]:
                continue
            measured = case_metrics(truth == number, labels == number, spacing[name], nsd_tolerance(spacing[name]))
            rows.append({"organ": organ, "case": name, **{key: round(measured[key], 5) for key in ("dice", "nsd", "hd95_mm")}})
    return rows


def architecture_hash(genotype: Mapping[str, Any] | None) -> str:
    """Return a short hash of a cell's final architecture: equal for equal ones; empty for a network without a genotype."""
    return hash_genotype(genotype) if genotype else ""


def _blank(value: float | None) -> float | str:
    """Return what a CSV shows of a number: empty where it is not known."""
    return "" if value is None else round(value, 4)
