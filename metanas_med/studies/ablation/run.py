"""Adapt with one setting changed at a time, to the data sets that each run held out.

Nothing is chosen on the benchmark's test groups, nor on organs that a run has seen: both are refused. Every setting adapts
from the same run to the same scans. A draw takes half an hour of one core.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...data.cached import CachedDataset, open_caches
from ...engine.adapt import adapt_episode, score
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...errors import CheckpointError, DataError
from ...files import read_csv, write_csv
from ...learner import choose_runtime
from ...meta import MetaState, commit_row
from ...space import hash_genotype
from ...tasks.episode import make_episode
from ...tasks.organ import task_in
from ..benchmark.guards import check_free, check_held_out
from ..benchmark.pretrain import found_genotype
from ..benchmark.settings import BenchmarkSettings, shipped_benchmark
from ..grid.cases import hash_names, query_cases, support_cases
from ..grid.frozen import hash_settings
from .page import write_page
from .settings import DRAWS, QUERY, SETTINGS, SHOTS


def run_ablation(cache: Path, out: Path, folders: Sequence[Path]) -> Path:
    """Return the path of ``out``/ablation.md after running the missing rows of ``out``/ablation.csv.

    Without ``folders`` only the page is written. A row is a setting, data set, draw, case and organ. ``folders``:
    meta-trainings that held out development groups of the benchmark.
    """
    torch.set_num_threads(1)
    path = out / "ablation.csv"
    rows: list[dict[str, Any]] = [*read_csv(path)] if path.exists() else []
    if folders:
        benchmark = shipped_benchmark()
        work = held_out_of(benchmark, open_caches(cache), [MetaRun.load(folder) for folder in folders])
        _check_rows(path, rows, benchmark, [run for _, run in work])
        done = {(r["setting"], r["dataset"], int(r["draw"])) for r in rows}
        for draw in range(DRAWS):
            for setting in SETTINGS:
                for data, run in work:
                    if (setting, data.name, draw) not in done:
                        rows += measured(benchmark, run, data, draw, setting)
                        write_csv(path, rows)
                        print(f"draw {draw}, {setting}: {data.name}", flush=True)
    return write_page(out)


def held_out_of(
    benchmark: BenchmarkSettings, datasets: dict[str, CachedDataset], runs: Sequence[MetaRun]
) -> list[tuple[CachedDataset, MetaRun]]:
    """Return each data set of the development groups with the run that held it out.

    DataError where a run held out none of them.
    """
    names = [data.dataset for group in benchmark.groups if group.development for data in group.data]
    work = [(datasets[name], run) for name in names for run in runs if name in run.held_out and name in datasets]
    if {run.sha256 for _, run in work} != {run.sha256 for run in runs}:
        raise DataError(f"a run held out none of {', '.join(names)}. Give runs that did, and a cache that holds them.")
    for data, run in work:
        check_free(data)
        check_held_out(datasets, run, data.name)
    return work


def _check_rows(path: Path, rows: Sequence[dict[str, Any]], benchmark: BenchmarkSettings, runs: Sequence[MetaRun]) -> None:
    """Raise CheckpointError where rows are of other runs or settings, which cannot be compared."""
    if {r["checkpoint"] for r in rows} - {run.sha256[:16] for run in runs}:
        raise CheckpointError(f"{path} holds rows of other runs. Choose another --out, or give those runs.")
    if {r["settings"] for r in rows} - {settings_hash(benchmark)}:
        raise CheckpointError(f"{path} holds rows of an adaptation with other settings or defaults. Choose another --out.")


def settings_hash(benchmark: BenchmarkSettings) -> str:
    """Return a short hash of the settings that the study starts from."""
    return hash_settings(benchmark.run.adapt, benchmark.plan)


def measured(benchmark: BenchmarkSettings, run: MetaRun, data: CachedDataset, draw: int, setting: str) -> list[dict[str, Any]]:
    """Return the rows of one adaptation: one a query case and organ."""
    changes = dict(SETTINGS[setting])
    plan, tta = benchmark.plan.model_copy(update=changes.pop("plan", {})), changes.pop("tta", False)
    start, found = run, found_genotype(run)
    if changes.pop("fresh", False):
        start = run.fresh(run.settings.seed + 1000 + draw).with_genotype(found)
        changes["alpha"] = "frozen"
    if lead := changes.pop("lead", None):
        start = replace(run, state=MetaState(run.state.weights, {n: commit_row(a, lead) for n, a in run.state.alphas.items()}))
    learner = benchmark.run.adapt.model_copy(update=changes)
    task = task_in(data)
    query = query_cases(data, QUERY)
    support = support_cases(data, task, SHOTS, draw, query_cases(data, benchmark.num_query))
    episode = make_episode(data, task, support, [], plan, run.settings.space.levels)
    begin = time.process_time()
    model, report, _ = adapt_episode(start, episode, learner, plan, draw, choose_runtime())
    seconds = time.process_time() - begin  # processor time, with the patches; other work on the machine does not count
    common = {
        "setting": setting,
        "dataset": data.name,
        "draw": draw,
        "seed": run.settings.seed,
        "moved": int(hash_genotype(report.genotype or found) != hash_genotype(found)),
        "gap_at_switch": "" if report.gap_at_switch is None else round(report.gap_at_switch, 4),
        "processor_seconds": round(seconds, 2),
        "support_hash": hash_names(support),
        "checkpoint": run.sha256[:16],
        "settings": settings_hash(benchmark),
        "code": code_revision(),
    }
    scores = score(model, data, query, tta)
    return [
        common | {"case": case, "organ": organ, "dice": round(dice, 4)}
        for case, organs in scores.items()
        for organ, dice in organs.items()
    ]
