"""Choices of the task learner, by ablation on organs of meta-training: ``python scripts/ablation.py RUN CACHE OUT``.

RUN is a meta-training folder, CACHE its cache. Held-out organs are refused. Writes OUT/ablation.csv (a row a setting, data set and
draw) and OUT/ablation.md, and goes on where it stopped.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import torch

from metanas_med.config import PlanSettings
from metanas_med.data.cached import open_caches
from metanas_med.engine.adapt import MetaRun, adapt_episode, choose_support, mean_of, score
from metanas_med.engine.checkpoint import code_revision
from metanas_med.errors import DataError
from metanas_med.files import write_csv, write_text
from metanas_med.learner import choose_runtime
from metanas_med.report.tables import markdown_table
from metanas_med.tasks.episode import make_episode
from metanas_med.tasks.organ import task_of

#: the benchmark's development groups: nothing is chosen on its test groups
ORGANS = (
    ("Ext20_ProstateMR", "all"),
    ("Ext21_ProstateTRUS", "all"),
    ("Ext15_SarcomaCT", "all"),
    ("Ext17_SarcomaPET", "all"),
)
#: what differs from the run's own settings of the adaptation
SETTINGS = {
    "as shipped": {},
    "alpha frozen": {"alpha": "frozen"},
    "meta-learned row instead of the closed form": {"head": "meta_row"},
    "half of the scans judge alpha": {"alpha_share": 0.5},
    "cross-fitted halves": {"cross_fit": True},
    "Adam": {"optimizer": "adam"},
    "rates fall within the run": {"decay_steps": 0},
    "half the batch": {},  # what half is depends on the run
}


def main(run_folder: Path, cache: Path, out: Path, draws: int = 2, num_query: int = 5) -> None:
    """Run what is missing of the grid, then write the table."""
    torch.set_num_threads(1)
    run, datasets, runtime = MetaRun.load(run_folder), open_caches(cache), choose_runtime()
    path, rows = out / "ablation.csv", []
    if path.exists():
        with open(path, newline="") as source:
            rows = list(csv.DictReader(source))
    done = {(r["setting"], r["dataset"], int(r["draw"])) for r in rows}
    plan = PlanSettings(view_voxels=32768)
    for draw in range(draws):
        for name, organ in ORGANS:
            if name in run.held_out:
                raise DataError(f"{name} is held out of {run_folder}: nothing may be chosen on it")
            task = task_of(name, datasets[name].labels, organ)
            support, left = choose_support(datasets[name], task, 5, 500 + draw)
            episode = make_episode(datasets[name], task, support, [], plan, run.settings.space.levels)
            for setting, changes in SETTINGS.items():
                if (setting, name, draw) in done:
                    continue
                learner = run.settings.adapt.model_copy(update={"steps": 20, **changes})
                if setting == "half the batch":
                    learner = learner.model_copy(update={"batch": max(learner.batch // 2, 1)})
                model, report, _ = adapt_episode(run, episode, learner, plan, draw, runtime)
                dice = mean_of(score(model, datasets[name], left[:num_query]))
                rows.append(
                    {
                        "setting": setting,
                        "dataset": name,
                        "draw": draw,
                        "dice": round(dice or 0.0, 4),
                        "seconds": round(report.seconds, 2),
                        "checkpoint": run.sha256[:16],
                        "code": code_revision(),
                    }
                )
                write_csv(path, rows)
                print(rows[-1], flush=True)
    write_text(out / "ablation.md", _page(rows))


def _page(rows: list[dict]) -> str:
    table = []
    for setting in SETTINGS:
        mine = [r for r in rows if r["setting"] == setting]
        line: dict = {"setting": setting}
        for name, _ in ORGANS:
            values = [float(r["dice"]) for r in mine if r["dataset"] == name]
            line[name] = round(float(np.mean(values)), 3) if values else ""
        line["mean"] = round(float(np.mean([float(r["dice"]) for r in mine])), 3) if mine else ""
        line["seconds"] = round(float(np.mean([float(r["seconds"]) for r in mine])), 1) if mine else ""
        table.append(line)
    return (
        "# Choices of the task learner\n\nMade by `python scripts/ablation.py RUN CACHE docs/results` from `ablation.csv`: 5 scans, 20 steps, two "
        "draws, five query scans, organs that meta-training saw (so absolute values are optimistic; the differences are what counts).\n\n"
        + markdown_table(table)
        + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
