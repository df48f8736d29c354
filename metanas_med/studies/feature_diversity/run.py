"""Measure how similar the features of runs are on the organs that they held out, and of fresh weights of the same architectures.

The measure is the effective number of features: the exponential of the entropy of their correlation matrix's spectrum (Roy
and Vetterli 2007, "The effective rank"), on sampled voxels of support scans. The Dice on other scans before any step is
measured as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...data.cached import CachedDataset, open_caches
from ...data.settings import PlanSettings
from ...engine.adapt import adapt_episode, mean_of, score
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...engine.solve import open_task
from ...engine.support import choose_support
from ...files import write_csv
from ...learner import Runtime, choose_runtime
from ...learner.diversity import effective_number
from ...learner.observe import observe
from ...space.network import NUM_POSITION, SegmentationNet
from ...tasks.episode import make_episode
from ...tasks.organ import task_in
from .page import QUERIES, SHOTS, write_page

PLAN = PlanSettings(view_voxels=32768)


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
            observe(cast(SegmentationNet, model.net), seen, [b], 2000, torch.Generator().manual_seed(draw), runtime).part(
                slice(0, 1)
            )[0]
            for b in batches
        ]
    features = torch.cat(found)[:, :-NUM_POSITION]
    return {
        "features": features.shape[1],
        "effective_number": round(effective_number(features), 1),
        "dice_before_any_step": round(mean_of(score(model, dataset, left[:QUERIES])) or 0.0, 4),
    }


def feature_diversity(cache: Path, out: Path, named: Mapping[str, Path], draws: int = 3) -> Path:
    """Return the path of ``out``/feature_diversity.md after measuring the runs ``named``.

    Without names only the page is written.
    """
    torch.set_num_threads(1)
    runs = {name: MetaRun.load(folder) for name, folder in named.items()}
    datasets, runtime = open_caches(cache) if runs else {}, choose_runtime()
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        for dataset in datasets.values():
            if dataset.name not in run.held_out or len({c.patient for c in dataset.cases}) < SHOTS + QUERIES:
                continue
            for start in ("meta-learned", "fresh"):
                for draw in range(draws):
                    one = run if start == "meta-learned" else run.fresh(1000 + draw)
                    note = {"run": name, "held_out": dataset.name, "weights": start, "draw": draw}
                    origin = {"checkpoint": run.sha256[:16], "code": code_revision()}
                    rows.append(note | measure(one, dataset, draw, runtime) | origin)
                    print(rows[-1], flush=True)
    if runs:
        write_csv(out / "feature_diversity.csv", rows)
    return write_page(out)
