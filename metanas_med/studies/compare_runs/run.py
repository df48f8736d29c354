"""Adapt from each run, and from fresh weights of its network, to the benchmark's development groups.

A name is one way of meta-training and its runs are seeds of it; all hold out the groups prostate and sarcoma. Every run
adapts from the same scans with the benchmark's settings and frozen alpha, after 0, 5 and 20 steps. Fresh weights of the first
run of each name follow, after 0 and 20 steps. A run takes about four minutes of one core, and fresh weights three minutes a
name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...data.cached import CachedDataset, open_caches
from ...engine.adapt import adapt_episode, mean_of, score
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...errors import ConfigError
from ...files import read_csv, write_csv
from ...learner import choose_runtime
from ...tasks.episode import make_episode
from ...tasks.organ import task_in
from ..benchmark.guards import check_held_out
from ..benchmark.settings import BenchmarkSettings, shipped_benchmark
from ..grid.cases import query_cases, support_cases
from ..grid.frozen import hash_settings
from .page import FRESH, META, QUERY, SHOTS, STARTS, write_page

#: draws of supports
DRAWS = 2


def compare_runs(cache: Path, out: Path, named: Mapping[str, Sequence[Path]]) -> Path:
    """Return the path of ``out``/compare_runs.md after adding the missing rows to ``out``/compare_runs.csv.

    Without names only the page is written. A row is a run, data set, draw, start and number of steps. ``named``: run folders
    by name.
    """
    torch.set_num_threads(1)
    benchmark = shipped_benchmark()
    path = out / "compare_runs.csv"
    rows: list[dict[str, Any]] = [*read_csv(path)] if path.exists() else []
    if not named:
        return write_page(out)
    datasets = _development(benchmark, cache)
    adaptation = settings_hash(benchmark)
    if any(r["settings"] != adaptation for r in rows):
        raise ConfigError(
            f"{path} holds rows of other settings of the benchmark's adaptation. Choose another --out, or remove it."
        )
    done = {(r["name"], r["checkpoint"], r["dataset"], int(r["draw"]), r["start"], int(r["steps"])) for r in rows}
    jobs = [(name, folder, META) for name, folders in named.items() for folder in folders]
    jobs += [(name, folders[0], FRESH) for name, folders in named.items()]
    for name, folder, kind in jobs:
        run, note = MetaRun.load(folder), json.loads((folder / "last.json").read_text())
        for held in datasets:
            check_held_out(datasets, run, held)
        about = {
            "name": name,
            "seed": run.settings.seed,
            "iterations": note["iteration"],
            "meta_seconds": round(note["seconds"]),
            "checkpoint": run.sha256[:16],
            "meta_code": note["code"],
            "settings": adaptation,
        }
        cells = [
            (d, draw, start, steps)
            for d in datasets.values()
            for draw in range(DRAWS)
            for start, steps in STARTS
            if start == kind
        ]
        for dataset, draw, start, steps in cells:
            if (name, about["checkpoint"], dataset.name, draw, start, steps) not in done:
                rows.append(about | _measured(benchmark, run, dataset, draw, start, steps))
                write_csv(path, rows)
                print(rows[-1], flush=True)
    return write_page(out)


def _development(benchmark: BenchmarkSettings, cache: Path) -> dict[str, CachedDataset]:
    """Return the data sets of the benchmark's development groups."""
    names = [data.dataset for group in benchmark.groups if group.development for data in group.data]
    there = open_caches(cache)
    missing = [name for name in names if name not in there]
    if missing:
        raise ConfigError(f"{cache} holds no {', '.join(missing)}. Prepare the benchmark's development data sets first.")
    return {name: there[name] for name in names}


def settings_hash(benchmark: BenchmarkSettings) -> str:
    """Return a short hash of the settings that runs adapt with."""
    return hash_settings(benchmark.run.adapt, benchmark.plan)


def _measured(
    benchmark: BenchmarkSettings, run: MetaRun, dataset: CachedDataset, draw: int, start: str, steps: int
) -> dict[str, Any]:
    plan, task = benchmark.plan, task_in(dataset)
    query = query_cases(dataset, QUERY)
    support = support_cases(dataset, task, SHOTS, draw, query)
    episode = make_episode(dataset, task, support, [], plan, run.settings.space.levels)
    state = run.fresh(run.settings.seed + 1000 + draw) if start == FRESH else run
    learner = benchmark.run.adapt.model_copy(update={"alpha": "frozen", "steps": steps})
    model, report, _ = adapt_episode(state, episode, learner, plan, draw, choose_runtime())
    dice = mean_of(score(model, dataset, query))
    return {
        "dataset": dataset.name,
        "draw": draw,
        "start": start,
        "steps": steps,
        "dice": round(dice or 0.0, 4),
        "seconds": round(report.seconds, 2),
        "code": code_revision(),
    }
