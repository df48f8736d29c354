"""Choices of the adaptation, by ablation: ``python scripts/ablation.py CACHE OUT RUN...``.

Each RUN is a meta-training folder that held out data sets of the benchmark's development groups (nothing is chosen on its test groups, nor on
organs that a run has seen: both are refused). Every setting adapts from the run to what it held out, from the same scans, and differs from
the benchmark's own in what its name says. Writes OUT/ablation.csv (a row a setting, data set, draw, case and organ) and OUT/ablation.md, draw
by draw, and goes on where it stopped. Without any RUN it writes the page alone, from the CSV. Cost: half an hour of one core a draw.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.cached import CachedDataset, open_caches
from ..engine.adapt import adapt_episode, score
from ..engine.checkpoint import code_revision
from ..engine.meta_run import MetaRun
from ..engine.settings import load_settings
from ..errors import CheckpointError, DataError
from ..files import read_csv, write_csv, write_text
from ..learner import choose_runtime
from ..meta import MetaState, commit_row
from ..report.tables import markdown_table
from ..resources import find_resource
from ..space import hash_genotype
from ..tasks.episode import make_episode
from ..tasks.organ import task_in
from .benchmark.compare import OURS, difference
from .benchmark.guards import check_free, check_held_out
from .benchmark.pretrain import found_genotype
from .benchmark.settings import BenchmarkSettings
from .benchmark.tables import interval
from .grid import hash_names, hash_settings, query_cases, support_cases

SHOTS, QUERY, DRAWS = 5, 5, 3
OWN = "as the benchmark adapts"
#: what differs from the benchmark's settings of the adaptation (20 steps); ``plan``: of the plan; ``tta``: of predictions alone; ``fresh``:
#: weights are, the architecture is the run's; ``lead``: of each row's first choice, where meta-training left 1.0
SETTINGS: dict[str, dict[str, Any]] = {
    OWN: {},
    "alpha frozen": {"alpha": "frozen"},
    "alpha stepped at 0.2, not 0.05": {"alpha_lr": 0.2},
    "alpha stepped at 0.5": {"alpha_lr": 0.5},
    "first choices lead by 0.2, not 1.0": {"lead": 0.2},
    "alpha on scans of its own": {"bilevel": True, "alpha_share": 0.25},
    "cross-fitted halves": {"bilevel": True, "cross_fit": True},
    "meta-learned row, not the closed form": {"head": "meta_row"},
    "the last weights, not their mean": {"average": 0.0},
    "rates that stay": {"lr_decay": "none"},
    "four patches a step, not eight": {"batch": 4},
    "Adam, not Muon": {"optimizer": "adam"},
    "small pieces kept": {"plan": {"drop_small": False}},
    "views that hold all organs": {"plan": {"thickness": 0.0}},
    "views twice as large, four a step": {"plan": {"view_voxels": 65536}, "batch": 4},
    "test-time augmentation": {"tta": True},
    "fresh weights": {"fresh": True},
    "fresh weights, test-time augmentation": {"fresh": True, "tta": True},
    "alpha frozen, 100 steps": {"alpha": "frozen", "steps": 100},
    "fresh weights, 100 steps": {"fresh": True, "steps": 100},
}


def main(cache: Path, out: Path, folders: Sequence[Path]) -> None:
    """Run what is missing of the grid, then write the table."""
    torch.set_num_threads(1)
    path = out / "ablation.csv"
    rows: list[dict[str, Any]] = [*read_csv(path)] if path.exists() else []
    if folders:
        benchmark = load_settings(find_resource("configs", "benchmark"), (), BenchmarkSettings)
        work = _held_out(benchmark, open_caches(cache), [MetaRun.load(folder) for folder in folders])
        _check_rows(path, rows, benchmark, [run for _, run in work])
        done = {(r["setting"], r["dataset"], int(r["draw"])) for r in rows}
        for draw in range(DRAWS):
            for setting in SETTINGS:
                for data, run in work:
                    if (setting, data.name, draw) not in done:
                        rows += measured(benchmark, run, data, draw, setting)
                        write_csv(path, rows)
                        print(f"draw {draw}, {setting}: {data.name}", flush=True)
    write_text(out / "ablation.md", page([*read_csv(path)]))


def _held_out(
    benchmark: BenchmarkSettings, datasets: dict[str, CachedDataset], runs: Sequence[MetaRun]
) -> list[tuple[CachedDataset, MetaRun]]:
    """Return each data set of the development groups with the run that held it out; DataError where a run held out none, or too little."""
    names = [data.dataset for group in benchmark.groups if group.development for data in group.data]
    work = [(datasets[name], run) for name in names for run in runs if name in run.held_out and name in datasets]
    if {run.sha256 for _, run in work} != {run.sha256 for run in runs}:
        raise DataError(f"a run held out none of {', '.join(names)}. Give runs that did, and a cache that holds them.")
    for data, run in work:
        check_free(data)
        check_held_out(datasets, run, data.name)
    return work


def _check_rows(path: Path, rows: Sequence[dict[str, Any]], benchmark: BenchmarkSettings, runs: Sequence[MetaRun]) -> None:
    """Raise CheckpointError where rows are of other runs or settings: they would stand beside others as if they were not."""
    if {r["checkpoint"] for r in rows} - {run.sha256[:16] for run in runs}:
        raise CheckpointError(f"{path} holds rows of other runs. Choose another OUT, or give the runs that they are of.")
    if {r["settings"] for r in rows} - {_settings(benchmark)}:
        raise CheckpointError(f"{path} holds rows of an adaptation by other settings, defaults among them. Choose another OUT.")


def _settings(benchmark: BenchmarkSettings) -> str:
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
    begun = time.process_time()
    model, report, _ = adapt_episode(start, episode, learner, plan, draw, choose_runtime())
    seconds = time.process_time() - begun  # of the processor, with its patches: other work beside it does not count
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
        "settings": _settings(benchmark),
        "code": code_revision(),
    }
    scores = score(model, data, query, tta)
    return [
        common | {"case": case, "organ": organ, "dice": round(dice, 4)}
        for case, organs in scores.items()
        for organ, dice in organs.items()
    ]


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page's text."""
    rows = [r | {"method": OURS, "draw": int(r["draw"]), "seed": int(r["seed"]), "dice": float(r["dice"])} for r in rows]
    names = sorted({r["dataset"] for r in rows})
    own, table = [r for r in rows if r["setting"] == OWN], []
    for setting in SETTINGS:
        mine = [r for r in rows if r["setting"] == setting]
        if {r["dataset"] for r in mine} != set(names):
            continue  # a mean over fewer data sets would be another figure
        by_set = {n: float(np.mean([r["dice"] for r in mine if r["dataset"] == n])) for n in names}
        runs = list({(r["dataset"], r["draw"]): r for r in mine}.values())
        gaps = [float(r["gap_at_switch"]) for r in runs if r["gap_at_switch"] != ""]
        line: dict[str, Any] = {"setting": setting} | {n: f"{dice:.3f}" for n, dice in by_set.items()}
        line["draws"] = str(len({r["draw"] for r in mine}))
        line["mean"] = f"{np.mean([*by_set.values()]):.3f}"
        line["difference"] = "" if setting == OWN else interval(difference(mine, own))
        line["other architecture"] = f"{sum(int(r['moved']) for r in runs)} of {len(runs)}" if gaps else ""
        line["gap at the switch"] = f"{np.mean(gaps):.3f}" if gaps else ""
        line["processor seconds"] = f"{np.mean([float(r['processor_seconds']) for r in runs]):.1f}"
        table.append(line)
    draws, cases = len({r["draw"] for r in rows}), max(len({r["case"] for r in rows if r["dataset"] == n}) for n in names)
    about = {key: ", ".join(sorted({r[key] for r in rows})) for key in ("checkpoint", "code")}
    return (
        "# Choices of the adaptation\n\nMade by `python scripts/ablation.py CACHE docs/results RUN...` from `ablation.csv`: mean Dice from "
        f"{SHOTS} scans, after 20 steps where nothing else is said, of all labels at once, {draws} draw(s), {cases} query scans; each data set "
        "of the benchmark's development groups from a meta-training that held it out with all that is related. *difference*: from the first "
        "line, on the draws that both have, data sets alike, with 95 % intervals (draws and cases resampled; the luck of the meta-trainings is "
        "not in them). *other "
        "architecture*: adaptations that ended with another one than meta-training found. *gap at the switch*: Dice on the support's views that "
        f"the discrete network loses. Meta-trained states: {about['checkpoint']}. Code: {about['code']}.\n\n{markdown_table(table)}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(folder) for folder in sys.argv[3:]])
