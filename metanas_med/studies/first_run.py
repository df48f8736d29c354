"""The first real run: meta-train without a group, adapt to its organs, compare with the same architecture from scratch.

Every cell (group, organ, shots, draw, method, steps) is one JSON file, written when it is done; the command goes on where it stopped.
The query cases of a group are fixed first; support cases are drawn from the patients that are left.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.cache import prepare
from ..engine.adapt import adapt_episode, score
from ..engine.checkpoint import code_revision
from ..engine.meta_run import MetaRun
from ..engine.metrics import bootstrap_interval
from ..engine.settings import load_settings
from ..files import write_csv, write_json
from ..learner import LearnerSettings, choose_runtime
from ..resources import find_resource
from ..space import cost, hash_genotype, validate_genotype
from ..tasks.episode import check_patients, make_episode
from ..tasks.organ import task_in
from .first_run_report import write_report
from .first_run_settings import ComparedGroup, FirstRunSettings
from .grid import (
    DONE,
    NOT_FROZEN,
    alone_in,
    cell_path,
    cells_named,
    check_failures,
    check_keeps,
    check_same,
    data_folders,
    failure_path,
    hash_names,
    hold_settings,
    open_prepared,
    open_run,
    processes,
    query_cases,
    read_cells,
    support_cases,
    train_to_the_end,
    wait_for,
    work_through,
    write_cell,
)

log = logging.getLogger(__name__)

#: what a run publishes of the settings that its cells were made under
PUBLISHED_SETTINGS = "first_run_settings.json"
COLUMNS = (
    "held_out", "dataset", "organ", "label", "method", "shots", "steps", "draw", "seed", "dice", "dice_low", "dice_high", "num_query",
    "seconds", "gradient_evaluations", "parameters", "multiply_adds", "architecture", "gap_at_switch", "gap_at_end", "top_probability_mean",
    "top_probability_min", "support_hash", "query_hash", "device", "checkpoint", "meta_seconds", "meta_processor_seconds", "code",
)  # fmt: skip

METHODS = {
    "metanas": {},
    "metanas-frozen": {"alpha": "frozen"},
    "metanas-random": {"alpha": "random"},
    "metanas-plain-head": {"head": "meta_row"},
    "scratch": {"alpha": "frozen"},
    "scratch-plain-head": {"alpha": "frozen", "head": "meta_row"},
}


@dataclass(frozen=True)
class Cell:
    """One adaptation and its scores."""

    group: str
    organ: str
    shots: int
    draw: int
    method: str
    steps: int

    @property
    def name(self) -> str:
        name = f"{self.group}-{self.organ}-{self.shots}shot-draw{self.draw}-{self.method}-{self.steps}"
        return name.replace(" ", "_").replace(",", "_")

    @property
    def file(self) -> str:
        return f"{self.name}.json"


def first_run(config: str, overrides: Sequence[str] = (), report_only: bool = False) -> Path:
    """Return the path of the report after running what is not done yet, on ``workers`` processes of one thread each."""
    settings = load_settings(find_resource("configs", config), overrides, FirstRunSettings)
    out, results = Path(settings.out), Path(settings.results)
    if not report_only:
        roots = data_folders(Path(settings.data))
        with alone_in(out), processes(settings.workers) as pool:
            hold_settings(out, _frozen(settings), _earlier)
            prepare(roots, settings.run.cache)
            wanted = chosen_cells(settings)
            for cell in wanted:
                failure_path(settings, cell).unlink(missing_ok=True)
            groups = {cell.group for cell in wanted}
            work_through(pool, _train, [(settings, g) for g in settings.groups if g.name in groups])
            work_through(pool, _work, [(settings, cell) for cell in wanted])
    if rows := rows_of(settings):
        hold_settings(out, _frozen(settings), _earlier)
        check_keeps(
            results / "first_run.csv", rows, _place_of, "Give another --results, or remove it if its cells are of an earlier run."
        )
        write_csv(results / "first_run.csv", rows, COLUMNS)
        write_json(results / PUBLISHED_SETTINGS, _told(settings))
    else:  # from what another run published: its page cannot tell of other settings, nor another story
        check_same(results / PUBLISHED_SETTINGS, _told(settings), lambda noted: _told(FirstRunSettings.model_validate(noted)))
    report = write_report(results, settings, sum(1 for _ in cells(settings)))
    if not report_only:
        check_failures(settings, wanted)
    return report


def _frozen(settings: FirstRunSettings) -> dict[str, Any]:
    """Return what cells depend on, as JSON values."""
    run = settings.run.model_dump(mode="json", exclude=set(NOT_FROZEN))
    return {"run": run, **settings.model_dump(mode="json", include={"plan", "groups"})}


def _told(settings: FirstRunSettings) -> dict[str, Any]:
    """Return what cells depend on and what the page says of them, as JSON values."""
    return {**_frozen(settings), "notes": settings.notes}


def _place_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells a row from all others."""
    return tuple(str(row[name]) for name in ("held_out", "organ", "label", "method", "shots", "steps", "draw", "seed"))


def _earlier(noted: dict[str, Any]) -> dict[str, Any]:
    return _frozen(FirstRunSettings.model_validate(noted))


def rows_of(settings: FirstRunSettings) -> list[dict[str, Any]]:
    """Return the CSV's rows of the cells that are done."""
    out = Path(settings.out)
    found = read_cells(out / "cells", [cell.file for cell in cells(settings)])
    trained = {g.name: out / "meta" / g.name / DONE for g in settings.groups}
    taken = {name: _taken(json.loads(path.read_text())) for name, path in trained.items() if path.exists()}
    return [
        {**row, "architecture": hash_genotype(cell["genotype"]), **taken.get(row["held_out"], {})}
        for cell in found
        for row in cell["rows"]
    ]


def _taken(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a meta-training took: by the clock and, where all of it is noted, of the processor (other work may have run beside it)."""
    names = {"meta_seconds": "seconds"} | ({} if note.get("resumed") else {"meta_processor_seconds": "processor_seconds"})
    return {column: round(note[key]) for column, key in names.items() if key in note}


def cells(settings: FirstRunSettings) -> Iterator[Cell]:
    """Yield the cells, those that the claim rests on first; a scratch cell comes after the search that found its architecture.

    The longest training comes last, for it takes as long as all the others.
    """
    places = [(g.name, organ) for g in settings.groups for organ in g.organs]
    plan = list(_plan(settings))
    longest = max(steps for _, steps in plan)
    for late in (False, True):
        for shots in settings.shots:
            for draw in range(settings.draws):
                for method, steps in plan:
                    if (method.startswith("scratch") and steps == longest > 100) == late:
                        for group, organ in places:
                            yield Cell(group, organ, shots, draw, method, steps)


def chosen_cells(settings: FirstRunSettings) -> list[Cell]:
    """Return the cells that ``settings.only`` names (all by default), and the searches whose architectures they train; ConfigError for none."""
    everything = list(cells(settings))
    chosen = set(cells_named(everything, settings.only))
    chosen |= {_search_of(settings, cell) for cell in chosen if cell.method.startswith("scratch")}
    return [cell for cell in everything if cell in chosen]


def _search_of(settings: FirstRunSettings, cell: Cell) -> Cell:
    """Return the cell whose search found the architecture that a scratch cell trains: 20 steps on the same scans, or the longest."""
    steps = 20 if 20 in settings.steps else max(settings.steps)
    return Cell(cell.group, cell.organ, cell.shots, cell.draw, "metanas", steps)


def _plan(settings: FirstRunSettings) -> Iterator[tuple[str, int]]:
    for steps in settings.steps:
        yield "metanas", steps
    for steps in settings.scratch_steps:
        yield "scratch", steps
    for steps in settings.variant_steps:
        for method in ("metanas-frozen", "metanas-random", "metanas-plain-head", "scratch-plain-head"):
            yield method, steps


def _train(job: tuple[FirstRunSettings, ComparedGroup]) -> None:
    settings, group = job
    torch.set_num_threads(1)
    folder = Path(settings.out) / "meta" / group.name
    if (folder / DONE).exists():
        return
    tasks = settings.run.tasks.model_copy(update={"hold_out": group.hold_out})
    run = settings.run.model_copy(update={"tasks": tasks, "threads": 1})
    train_to_the_end(run, folder)


def _work(job: tuple[FirstRunSettings, Cell]) -> None:
    settings, cell = job
    write_cell(settings, cell, lambda: run_cell(settings, cell))


def run_cell(settings: FirstRunSettings, cell: Cell) -> dict[str, Any]:
    """Return the rows (one an organ) and the details of one cell."""
    code = code_revision()
    group = next(g for g in settings.groups if g.name == cell.group)
    dataset = open_prepared(str(Path(settings.run.cache) / f"{group.dataset}.h5"))
    run = open_run(str(Path(settings.out) / "meta" / group.name))
    if dataset.name not in run.held_out:
        raise AssertionError(f"{dataset.name} was not held out of {group.name}'s meta-training")
    query = query_cases(dataset, group.num_query)
    task = task_in(dataset, cell.organ)
    support = support_cases(dataset, task, cell.shots, cell.draw, query)
    check_patients(dataset, support, query)
    # the architecture's cost does not depend on the scans, so the plan may: it is made from the support alone
    episode = make_episode(dataset, task, support, [], settings.plan, run.settings.space.levels)
    learner = settings.run.adapt.model_copy(update={"steps": cell.steps, **METHODS[cell.method]})
    if cell.method.startswith("scratch"):
        run, learner = _scratch(settings, cell, run, learner)
    runtime = choose_runtime(settings.run.device, settings.run.precision)
    start = time.perf_counter()
    model, report, _ = adapt_episode(run, episode, learner, settings.plan, cell.draw, runtime)
    seconds = time.perf_counter() - start
    scores = score(model, dataset, query)
    counted = cost(model.net.body, episode.plan.view, episode.plan.strides)
    rows = []
    for organ in task.names:
        values = [scores[name][organ] for name in query]
        low, high = bootstrap_interval(values)
        rows.append(
            {
                "held_out": cell.group,
                "dataset": dataset.name,
                "organ": cell.organ,
                "label": organ,
                "method": cell.method,
                "shots": cell.shots,
                "steps": cell.steps,
                "draw": cell.draw,
                "seed": settings.run.seed,
                "dice": round(float(np.mean(values)), 5),
                "dice_low": round(low, 5),
                "dice_high": round(high, 5),
                "num_query": len(values),
                "seconds": round(seconds, 2),
                "gradient_evaluations": report.gradient_evaluations,
                **counted,
                **{
                    k: _rounded(getattr(report, k))
                    for k in ("gap_at_switch", "gap_at_end", "top_probability_mean", "top_probability_min")
                },
                "support_hash": hash_names(support),
                "query_hash": hash_names(query),
                "device": runtime.device.type,
                "checkpoint": run.sha256[:16],
                "code": code,
            }
        )
    return {
        "cell": asdict(cell),
        "rows": rows,
        "scores": scores,
        "support": support,
        "genotype": report.genotype,
        "report": report.to_json(),
    }


def _scratch(settings: FirstRunSettings, cell: Cell, run: MetaRun, learner: LearnerSettings) -> tuple[MetaRun, LearnerSettings]:
    """Return fresh weights under the architecture that the search found for the same scans."""
    search = _search_of(settings, cell)
    wait_for(settings, search)
    genotype = json.loads(cell_path(settings, search).read_text())["genotype"]
    validate_genotype(genotype, run.settings.space)
    return run.fresh(settings.run.seed + 1000 + cell.draw).with_genotype(genotype), learner


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
