"""Measure how adaptations move the weights, from a meta-trained run and from fresh weights of its network.

For each data set that the run learned from or held out there are three adaptations: to five scans, to the same scans with
other patches, and to other scans. Each is made by the benchmark's adaptation and by the run's task learner, with frozen
alpha. It moves the weights of stem and body by a vector. Reptile steps along the mean of the task learner's vectors (Nichol
et al. 2018, arXiv 1803.02999), so their cosines between data sets show how much of a move that mean keeps. Cosines within a
data set show how much of a move is due to the drawn scans or patches.

An adaptation takes 13 to 20 s of one core, and each data set has six; a run of the learner takes 2 s, and there are six as well.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from ...data.cached import CachedDataset, open_caches
from ...engine.adapt import adapt_episode
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...files import atomic_path, write_csv
from ...learner import choose_runtime
from ...space.network import SegmentationNet
from ...tasks.episode import make_episode
from ...tasks.organ import task_in
from ..benchmark.settings import BenchmarkSettings, shipped_benchmark
from ..grid.cases import support_cases
from .page import FRESH, MOVES, SHOTS

#: (draw of the scans, draw of the patches) of the adaptations to a data set
TURNS = ((0, 0), (0, 1), (1, 0))


def run_task_pull(cache: Path, folder: Path, work: Path, out: Path) -> None:
    """Make the adaptations that ``work`` lacks, then write ``out``/task_pull.csv.xz: a row a pair of moves of the same kind.

    ``folder``: the meta-trained run; ``work`` keeps a vector an adaptation, so that a stopped study resumes.
    """
    torch.set_num_threads(1)
    run, benchmark = MetaRun.load(folder), shipped_benchmark()
    work.mkdir(parents=True, exist_ok=True)
    rows, moves = list[dict[str, Any]](), dict[tuple[str, str, int, int], np.ndarray]()
    learned = {key.split("/")[0] for key in run.train_tasks}
    datasets = [d for d in open_caches(cache).values() if d.name in learned or d.name in run.held_out]
    codes: dict[tuple[str, str, int, int], str] = {}
    for kind, (start, learner) in MOVES.items():
        for dataset in datasets:
            for draw, patches in TURNS:
                if draw and len({c.patient for c in dataset.cases}) < 2:
                    continue  # no other scans are left
                path = work / f"{run.sha256[:16]}-{start}-{learner}-{dataset.name}-{draw}-{patches}.safetensors"
                if not path.exists():
                    code = code_revision()
                    moved = move(run, benchmark, dataset, start, learner, draw, patches)
                    with atomic_path(path) as temporary:
                        save_file({"move": moved}, temporary, {"code": code})
                    print(path.stem, flush=True)
                with safe_open(path, "np") as file:
                    place = kind, dataset.name, draw, patches
                    moves[place], codes[place] = file.get_tensor("move"), file.metadata()["code"]
    for a, b in combinations(moves, 2):
        if a[0] == b[0]:
            rows.append(
                {"move": a[0], "dataset_a": a[1], "draw_a": a[2], "patches_a": a[3], "dataset_b": b[1], "draw_b": b[2], "patches_b": b[3]}
                | {"held_out_a": int(a[1] in run.held_out), "held_out_b": int(b[1] in run.held_out)}
                | {"cosine": round(cosine(moves[a], moves[b]), 5)}
                | {"norm_a": round(float(np.linalg.norm(moves[a])), 4), "norm_b": round(float(np.linalg.norm(moves[b])), 4)}
                | {"seed": run.settings.seed, "checkpoint": run.sha256[:16], "code_a": codes[a], "code_b": codes[b]}
            )  # fmt: skip
    write_csv(out / "task_pull.csv.xz", rows)


def move(
    run: MetaRun, benchmark: BenchmarkSettings, dataset: CachedDataset, start: str, learner: str, draw: int, patches: int
) -> np.ndarray:
    """Return the move (P,) float32 of stem and body by an adaptation (``adapt``) or by the run's task learner (``learner``)."""
    adapts = learner == "adapt"
    plan, settings = (benchmark.plan, benchmark.run.adapt) if adapts else (run.settings.plan, run.settings.learner)
    task = task_in(dataset)
    shots = min(SHOTS, max(len({c.patient for c in dataset.cases}) // 2, 1))
    first = support_cases(dataset, task, shots, 0, ())
    # other scans come from other patients
    support = first if draw == 0 else support_cases(dataset, task, shots, draw, first)
    episode = make_episode(dataset, task, support, [], plan, run.settings.space.levels)
    state = run.fresh(run.settings.seed + 1000) if start == FRESH else run
    settings = settings.fixed(discrete=True)
    model, _, _ = adapt_episode(state, episode, settings, plan, 10 * draw + patches, choose_runtime("cpu"))
    moved = {
        n: p.detach() - state.state.weights[n]
        for n, p in cast(SegmentationNet, model.net).weights().items()
        if not n.startswith("head.")
    }
    return torch.cat([moved[n].flatten() for n in sorted(moved)]).numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors (P,)."""
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
