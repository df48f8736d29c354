"""How alike a run's features are on the organs that it held out: ``python scripts/feature_diversity.py CACHE OUT NAME=RUN...``.

Writes OUT/feature_diversity.csv and .md: of each run, and of fresh weights of its architecture, the effective number of features (the
exponential of the entropy of their correlation matrix's spectrum, Roy and Vetterli 2007, "The effective rank") on sampled voxels of
support scans, and the Dice that rows solved on them reach on other scans before any step.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from ..data.cached import CachedDataset, open_caches
from ..data.settings import PlanSettings
from ..engine.adapt import adapt_episode, mean_of, score
from ..engine.checkpoint import code_revision
from ..engine.meta_run import MetaRun
from ..engine.state import open_task
from ..engine.support import choose_support
from ..files import write_csv, write_text
from ..learner import Runtime, choose_runtime
from ..learner.features import effective_number, observe
from ..report.tables import markdown_table
from ..space.network import NUM_POSITION
from ..tasks.episode import make_episode
from ..tasks.organ import task_in

PLAN = PlanSettings(view_voxels=32768)
SHOTS, QUERIES = 5, 8


def measure(run: MetaRun, dataset: CachedDataset, draw: int, runtime: Runtime) -> dict[str, float]:
    """Return the effective number of features and the Dice before any step, from five scans."""
    task = task_in(dataset)
    support, left = choose_support(dataset, task, SHOTS, 700 + draw)
    episode = make_episode(dataset, task, support, [], PLAN, run.settings.space.levels)
    learner = run.settings.adapt.model_copy(update={"steps": 0, "alpha": "frozen"})
    model, _, _ = adapt_episode(run, episode, learner, PLAN, draw, runtime)
    seen, sampler = open_task(episode, PLAN, np.random.default_rng(draw))
    batches = [sampler.views(scan) for scan in range(len(support))]
    with torch.no_grad():
        found = [
            observe(model.net, seen, [b], 2000, torch.Generator().manual_seed(draw), runtime).part(slice(0, 1))[0]
            for b in batches
        ]
    features = torch.cat(found)[:, :-NUM_POSITION]
    return {
        "features": features.shape[1],
        "effective_number": round(effective_number(features), 1),
        "dice_before_any_step": round(mean_of(score(model, dataset, left[:QUERIES])) or 0.0, 4),
    }


def main(cache: Path, out: Path, named: dict[str, Path], draws: int = 3) -> None:
    """Measure each run, and fresh weights of it, on the data sets that it held out; write both files."""
    torch.set_num_threads(1)
    datasets, runtime, rows = open_caches(cache), choose_runtime(), []
    for name, folder in named.items():
        run = MetaRun.load(folder)
        for dataset in (
            d for d in datasets.values() if d.name in run.held_out and len({c.patient for c in d.cases}) >= SHOTS + QUERIES
        ):
            for start in ("meta-learned", "fresh"):
                for draw in range(draws):
                    one = run if start == "meta-learned" else run.fresh(1000 + draw)
                    note = {"run": name, "held_out": dataset.name, "weights": start, "draw": draw}
                    rows.append(
                        note | measure(one, dataset, draw, runtime) | {"checkpoint": run.sha256[:16], "code": code_revision()}
                    )
                    print(rows[-1], flush=True)
    write_csv(out / "feature_diversity.csv", rows)
    table = []
    for name, dataset, start in sorted(
        {(r["run"], r["held_out"], r["weights"]) for r in rows}, key=lambda k: (k[1], k[2] != "fresh", k[0])
    ):
        mine = [r for r in rows if (r["run"], r["held_out"], r["weights"]) == (name, dataset, start)]
        line = {"held out": dataset, "run": name, "weights": start, "features": mine[0]["features"]}
        for key, title in (("effective_number", "effective number"), ("dice_before_any_step", "Dice before any step")):
            values = [r[key] for r in mine]
            line[title] = f"{np.mean(values):.3g} [{min(values):.3g}, {max(values):.3g}]"
        table.append(line)
    head = (
        "# Features that become alike\n\n"
        "Made by `python scripts/feature_diversity.py CACHE docs/results NAME=RUN...` from `feature_diversity.csv`: five scans of a held-out "
        f"data set, {draws} draws (in brackets the lowest and highest), 8 query scans. The effective number is the effective rank of the "
        "features' correlations on sampled voxels.\n\n"
    )
    write_text(out / "feature_diversity.md", f"{head}{markdown_table(table)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), dict((n, Path(p)) for n, p in (a.split("=", 1) for a in sys.argv[3:])))
