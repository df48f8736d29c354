"""What meta-trainings are worth, on development organs: ``python scripts/compare_runs.py CACHE OUT NAME=RUN[,RUN...]...``.

Each NAME stands for one way of meta-training, its RUNs (folders) for seeds of it; all hold out the groups prostate and sarcoma. Every run
adapts to their data sets from the same scans by the benchmark's settings, alpha kept, after 0, 5 and 20 steps; last of all, and of the first
run of each NAME alone, fresh weights of its network after 0 and 20. Writes OUT/compare_runs.csv (a row a run, data set, draw, start and
number of steps) and OUT/compare_runs.md, and goes on where it stopped; without any NAME it writes
the page alone, from the CSV. Cost: some four minutes a run on one core, and three of each NAME.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.cached import CachedDataset, open_caches
from ..engine.adapt import adapt_episode, mean_of, score
from ..engine.checkpoint import code_revision
from ..engine.meta_run import MetaRun
from ..engine.settings import load_settings
from ..errors import ConfigError
from ..files import read_csv, write_csv, write_text
from ..learner import choose_runtime
from ..report.tables import markdown_table
from ..resources import find_resource
from ..tasks.episode import make_episode
from ..tasks.organ import task_in
from .benchmark.guards import check_held_out
from .benchmark.settings import BenchmarkSettings
from .grid import hash_settings, query_cases, support_cases

META, FRESH = "meta-learned", "fresh"
STARTS = ((META, 0), (META, 5), (META, 20), (FRESH, 0), (FRESH, 20))
SHOTS, DRAWS, QUERY = 5, 2, 8


def main(cache: Path, out: Path, named: Mapping[str, Sequence[Path]]) -> None:
    """Run what is missing, then write the page."""
    torch.set_num_threads(1)
    benchmark = load_settings(find_resource("configs", "benchmark"), (), BenchmarkSettings)
    path, rows = out / "compare_runs.csv", list[dict[str, Any]]()
    if path.exists():
        rows = [*read_csv(path)]
    if not named:
        write_text(out / "compare_runs.md", _page(rows))
        return
    datasets = _development(benchmark, cache)
    adaptation = _hash(benchmark)
    if any(r["settings"] != adaptation for r in rows):
        raise ConfigError(
            f"{path} holds rows of other settings of the benchmark's adaptation. Give another folder, or remove it."
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
    write_text(out / "compare_runs.md", _page(rows))


def _development(benchmark: BenchmarkSettings, cache: Path) -> dict[str, CachedDataset]:
    """Return the data sets of the benchmark's development groups."""
    names = [data.dataset for group in benchmark.groups if group.development for data in group.data]
    there = open_caches(cache)
    missing = [name for name in names if name not in there]
    if missing:
        raise ConfigError(f"{cache} holds no {', '.join(missing)}: prepare the benchmark's development data sets first")
    return {name: there[name] for name in names}


def _hash(benchmark: BenchmarkSettings) -> str:
    """Return a short hash of the settings that runs adapt by."""
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


def _page(rows: list[dict[str, Any]]) -> str:
    table, names = [], list(dict.fromkeys(r["name"] for r in rows))
    for name in names:
        mine = [r for r in rows if r["name"] == name]
        line: dict[str, Any] = {"meta-training": name, "runs": len({r["checkpoint"] for r in mine})}
        line["iterations"] = f"{np.mean([int(r['iterations']) for r in mine]):.0f}"
        line["minutes"] = f"{np.mean([float(r['meta_seconds']) for r in mine]) / 60:.1f}"
        for start, steps in STARTS:
            if chosen := [r for r in mine if r["start"] == start and int(r["steps"]) == steps]:
                values = _array(chosen)
                low, high = _interval(values)
                line[f"{start}, {steps} steps"] = f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
        table.append(line)
    by_set = [
        {"meta-training": name, "start": start, **_by_dataset([r for r in rows if (r["name"], r["start"]) == (name, start)], 20)}
        for name in names
        for start in (META, FRESH)
    ]
    draws, codes = len({r["draw"] for r in rows}), ", ".join(sorted({r["code"] for r in rows}))
    return (
        "# What meta-trainings are worth\n\nMade by `python scripts/compare_runs.py CACHE docs/results NAME=RUN,RUN...` from `compare_runs.csv`: "
        f"mean Dice over the data sets of the development groups, held out together, from {SHOTS} scans, {draws} draw(s), {QUERY} query scans, alpha "
        "kept, by the benchmark's settings. *fresh*: new weights of the first run's network, two of them (one a draw). "
        "Intervals resample runs and draws, data sets and query scans as they are; of two or three draws or runs they are still too "
        "narrow, and of one run "
        f"they do not hold the luck of meta-training. Code of the adaptations: {codes}.\n\n{markdown_table(table)}\n\n"
        f"By data set, after 20 steps:\n\n{markdown_table(by_set)}\n"
    )


def _by_dataset(rows: Sequence[Mapping[str, Any]], steps: int) -> dict[str, str]:
    chosen = [r for r in rows if int(r["steps"]) == steps]
    names = sorted({str(r["dataset"]) for r in chosen})
    return {name: f"{np.mean([float(r['dice']) for r in chosen if r['dataset'] == name]):.3f}" for name in names}


def _array(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return Dice as (run, data set, draw); ConfigError where a part is missing."""
    axes = [sorted({str(r[key]) for r in rows}) for key in ("checkpoint", "dataset", "draw")]
    found = {(str(r["checkpoint"]), str(r["dataset"]), str(r["draw"])): float(r["dice"]) for r in rows}
    if len(found) != np.prod([len(axis) for axis in axes]):
        raise ConfigError(f"{rows[0]['name']}: some runs lack data sets or draws. Run the command again to its end.")
    return np.array([[[found[run, dataset, draw] for draw in axes[2]] for dataset in axes[1]] for run in axes[0]])


def _interval(values: np.ndarray, times: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of (run, data set, draw): runs are resampled, and draws of each data set.

    By one fewer than there are, which makes the variance of a mean unbiased (Rao and Wu 1988, doi 10.1080/01621459.1988.10478591).
    """
    rng, (runs, sets, draws) = np.random.default_rng(0), values.shape
    which = rng.integers(runs, size=(times, max(runs - 1, 1), 1, 1))
    drawn = rng.integers(draws, size=(times, 1, sets, max(draws - 1, 1)))
    means = values[which, np.arange(sets)[None, None, :, None], drawn].mean((1, 2, 3))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        {name: [Path(run) for run in runs.split(",")] for name, _, runs in (arg.partition("=") for arg in sys.argv[3:])},
    )
