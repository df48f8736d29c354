"""Choices of the task learner, by ablation: ``python scripts/ablation.py RUN CACHE OUT [DATA_SET...]``.

RUN is a meta-training folder, CACHE holds the data sets (the benchmark's development groups by default; nothing is chosen on its test
groups or on organs that RUN held out: both are refused). Writes OUT/ablation.csv (a row a setting, data set and draw) and
OUT/ablation.md, and goes on where it stopped, with the same RUN.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metanas_med.config import PlanSettings
from metanas_med.data.cached import open_caches
from metanas_med.engine.adapt import MetaRun, adapt_episode, choose_support, mean_of, score
from metanas_med.engine.benchmark.guards import check_free
from metanas_med.engine.benchmark.pretrain import found_genotype
from metanas_med.engine.checkpoint import code_revision
from metanas_med.engine.grid import hash_settings
from metanas_med.errors import CheckpointError, DataError
from metanas_med.files import read_csv, write_csv, write_text
from metanas_med.learner import choose_runtime
from metanas_med.report.tables import markdown_table
from metanas_med.tasks.episode import make_episode
from metanas_med.tasks.organ import task_of

DEVELOPMENT = ("Ext20_ProstateMR", "Ext21_ProstateTRUS", "Ext15_SarcomaCT", "Ext17_SarcomaPET")
COOLDOWN = {"lr_decay": "cooldown"}
#: what differs from the run's own settings of the adaptation at 20 steps; ``fresh``: weights are, the architecture is the run's
SETTINGS: dict[str, dict[str, Any]] = {
    "the run's own settings": {},
    "alpha frozen": {"alpha": "frozen"},
    "alpha in the first five steps": {"alpha_steps": 5},
    "alpha in the first three steps": {"alpha_steps": 3},
    "meta-learned row instead of the closed form": {"head": "meta_row"},
    "half of the scans judge alpha": {"bilevel": True, "alpha_share": 0.5},
    "cross-fitted halves": {"bilevel": True, "cross_fit": True},
    "alpha on scans of its own": {"bilevel": True, "alpha_share": 0.25},
    "the last weights, not their mean": {"average": 0.0},
    "Adam": {"optimizer": "adam"},
    "rates fall within the run": {"lr_decay": "cosine"},
    "rates fall over the last steps alone": COOLDOWN,
    "four patches a step": {"batch": 4},
    "5 steps": {"steps": 5},
    "5 steps, rates fall over the last steps alone": {"steps": 5, **COOLDOWN},
    "100 steps, alpha in the first half": {"steps": 100, "alpha_steps": 0},
    "100 steps, alpha frozen": {"steps": 100, "alpha": "frozen"},
    "100 steps, alpha in the first tenth": {"steps": 100, "alpha_phase": 0.1, "alpha_steps": 10},
    "fresh weights": {"fresh": True},
    "fresh weights, 100 steps": {"fresh": True, "steps": 100},
    "fresh weights, 100 steps, kernels at half the rate": {"fresh": True, "steps": 100, "kernel_lr": 1e-2},
    "fresh weights, 100 steps, kernels at twice the rate": {"fresh": True, "steps": 100, "kernel_lr": 4e-2},
    "fresh weights, 100 steps, rates fall over the last steps alone": {"fresh": True, "steps": 100, **COOLDOWN},
    "fresh weights, 100 steps, Adam": {"fresh": True, "steps": 100, "optimizer": "adam"},
}


def main(run_folder: Path, cache: Path, out: Path, names: Sequence[str], draws: int = 2, num_query: int = 5) -> None:
    """Run what is missing of the grid, then write the table."""
    torch.set_num_threads(1)
    run, datasets, runtime = MetaRun.load(run_folder), open_caches(cache), choose_runtime()
    path = out / "ablation.csv"
    rows: list[dict[str, Any]] = [*read_csv(path)] if path.exists() else []
    if any(r["checkpoint"] != run.sha256[:16] for r in rows):
        raise CheckpointError(f"{path} holds rows of another run than {run_folder}. Choose another OUT.")
    plan = PlanSettings(view_voxels=32768)
    adaptation = hash_settings(run.settings.adapt, plan)
    if any(r.get("settings") != adaptation for r in rows):
        raise CheckpointError(f"{path} holds rows of an adaptation by other settings, defaults among them. Choose another OUT.")
    done = {(r["setting"], r["dataset"], int(r["draw"])) for r in rows}
    for draw in range(draws):
        for name in names:
            if name in run.held_out:
                raise DataError(f"{name} is held out of {run_folder}: nothing may be chosen on it")
            check_free(datasets[name])
            task = task_of(name, datasets[name].labels, "all")
            support, left = choose_support(datasets[name], task, 5, 500 + draw)
            episode = make_episode(datasets[name], task, support, [], plan, run.settings.space.levels)
            for setting, changes in SETTINGS.items():
                if (setting, name, draw) in done:
                    continue
                changes = {"steps": 20, **changes}
                fresh = changes.pop("fresh", False)
                start = run
                if fresh:
                    start = run.fresh(run.settings.seed + 1000 + draw).with_genotype(found_genotype(run))
                    changes["alpha"] = "frozen"
                learner = run.settings.adapt.model_copy(update=changes)
                model, report, _ = adapt_episode(start, episode, learner, plan, draw, runtime)
                dice = mean_of(score(model, datasets[name], left[:num_query]))
                rows.append(
                    {
                        "setting": setting,
                        "dataset": name,
                        "seen": int(any(t.startswith(f"{name}/") for t in run.train_tasks)),
                        "draw": draw,
                        "seed": run.settings.seed,
                        "dice": round(dice or 0.0, 4),
                        "seconds": round(report.seconds, 2),
                        "checkpoint": run.sha256[:16],
                        "settings": adaptation,
                        "code": code_revision(),
                    }
                )
                write_csv(path, rows)
                print(rows[-1], flush=True)
    write_text(out / "ablation.md", _page(rows))


def _page(rows: list[dict]) -> str:
    names = sorted({r["dataset"] for r in rows})
    # a mean over other data sets would be another figure
    whole = [n for n in names if {r["setting"] for r in rows if r["dataset"] == n} >= {r["setting"] for r in rows}]
    table = []
    for setting in SETTINGS:
        mine = [r for r in rows if r["setting"] == setting]
        line: dict = {"setting": setting}
        for name in names:
            values = [float(r["dice"]) for r in mine if r["dataset"] == name]
            line[name] = f"{np.mean(values):.3f}" if values else ""
        shared = [float(r["dice"]) for r in mine if r["dataset"] in whole]
        line["mean"] = f"{np.mean(shared):.3f}" if shared else ""
        seconds = [float(r["seconds"]) for r in mine if r["dataset"] in whole]
        line["seconds"] = f"{np.mean(seconds):.1f}" if seconds else ""
        table.append(line)
    seen = sorted({r["dataset"] for r in rows if int(r["seen"])})
    about = f" Meta-training saw {', '.join(seen)}: values there are optimistic, the differences are what counts." if seen else ""
    part = [n for n in names if n not in whole]
    left = f" {', '.join(part)}: unfinished, and not in the means, of Dice and seconds." if part else ""
    draws, codes = len({r["draw"] for r in rows}), ", ".join(sorted({r["code"] for r in rows}))
    return (
        "# Choices of the task learner\n\nMade by `python scripts/ablation.py RUN CACHE docs/results DATA_SET...` from `ablation.csv`: mean "
        f"Dice from 5 scans, after 20 steps where nothing else is said, {draws} draw(s), up to five query "
        f"scans.{about}{left} Code: {codes}.\n\n{markdown_table(table)}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:] or DEVELOPMENT)
