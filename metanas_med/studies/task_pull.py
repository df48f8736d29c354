"""Which tasks pull the weights where: ``python scripts/task_pull.py CACHE RUN WORK OUT``.

From a meta-trained RUN, and from fresh weights of its architecture, each data set of CACHE that the run learned from or held out is adapted
to three times: on five scans, on the same ones with other patches, and on other ones; by the benchmark's adaptation and by the task learner of
the run, alpha kept. That moves the weights of stem and body by a vector; Reptile steps along the mean of the learner's over tasks (Nichol et al.
2018, arXiv 1803.02999), so what cosines between data sets leave of that mean is what it has to go by. Of one data set they say how much of a
move is the organ's at all: the rest hangs on which scans or patches were drawn.

Vectors are kept in WORK, so a stopped run goes on; OUT gets task_pull.csv.xz (a row a pair of adaptations) and task_pull.md. With ``-`` in
place of RUN the page alone is made, from the CSV. Cost: 13 to 20 s of one core an adaptation, six a data set, and 2 s a run of the learner,
six of them, too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from ..data.cached import CachedDataset, open_caches
from ..engine.adapt import adapt_episode
from ..engine.checkpoint import code_revision
from ..engine.meta_run import MetaRun
from ..engine.metrics import bootstrap_interval
from ..engine.settings import load_settings
from ..files import atomic_path, read_csv, write_csv, write_text
from ..learner import choose_runtime
from ..report.tables import markdown_table
from ..resources import find_resource
from ..tasks.episode import make_episode
from ..tasks.organ import task_in
from .benchmark.settings import BenchmarkSettings
from .grid import support_cases

META, FRESH = "meta-learned", "fresh"
#: by what is moved, and from where
MOVES = {
    "meta-learned, adapted": (META, "adapt"),
    "fresh, adapted": (FRESH, "adapt"),
    "meta-learned, by the task learner": (META, "learner"),
    "fresh, by the task learner": (FRESH, "learner"),
}
SHOTS = 5
#: what is adapted to, by draw of the scans and of the patches
TURNS = ((0, 0), (0, 1), (1, 0))
KINDS = ("same scans, other patches", "same data set, other scans", "other data set, both of training", "training and held out")


def main(cache: Path, folder: Path, work: Path, out: Path) -> None:
    """Adapt where that is not done yet, then write the CSV and the page."""
    torch.set_num_threads(1)
    run, benchmark = MetaRun.load(folder), load_settings(find_resource("configs", "benchmark"), (), BenchmarkSettings)
    work.mkdir(parents=True, exist_ok=True)
    rows, moves = list[dict[str, Any]](), dict[tuple[str, str, int, int], np.ndarray]()
    learned = {key.split("/")[0] for key in run.train_tasks}
    datasets = [d for d in open_caches(cache).values() if d.name in learned or d.name in run.held_out]
    codes: dict[tuple[str, str, int, int], str] = {}
    for kind, (start, learner) in MOVES.items():
        for dataset in datasets:
            for draw, patches in TURNS:
                if draw and len({c.patient for c in dataset.cases}) < 2:
                    continue  # there are no other scans
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
    write_text(out / "task_pull.md", page(read_csv(out / "task_pull.csv.xz")))


def move(
    run: MetaRun, benchmark: BenchmarkSettings, dataset: CachedDataset, start: str, learner: str, draw: int, patches: int
) -> np.ndarray:
    """Return the vector (P,) float32 by which an adaptation (``adapt``) or the run's task learner (``learner``) moves stem and body."""
    adapts = learner == "adapt"
    plan, settings = (benchmark.plan, benchmark.run.adapt) if adapts else (run.settings.plan, run.settings.learner)
    task = task_in(dataset)
    shots = min(SHOTS, max(len({c.patient for c in dataset.cases}) // 2, 1))
    first = support_cases(dataset, task, shots, 0, ())
    # other scans are of other patients
    support = first if draw == 0 else support_cases(dataset, task, shots, draw, first)
    episode = make_episode(dataset, task, support, [], plan, run.settings.space.levels)
    state = run.fresh(run.settings.seed + 1000) if start == FRESH else run
    settings = settings.model_copy(update={"alpha": "frozen", "discretize": True})
    model, _, _ = adapt_episode(state, episode, settings, plan, 10 * draw + patches, choose_runtime("cpu"))
    moved = {n: p.detach() - state.state.weights[n] for n, p in model.net.weights().items() if not n.startswith("head.")}
    return torch.cat([moved[n].flatten() for n in sorted(moved)]).numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors (P,)."""
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def kind_of(row: Mapping[str, Any]) -> str | None:
    """Return what the two adaptations of a pair share, one of ``KINDS``; None for two held-out data sets."""
    if row["dataset_a"] == row["dataset_b"]:
        return KINDS[0] if row["draw_a"] == row["draw_b"] else KINDS[1]
    held = int(row["held_out_a"]) + int(row["held_out_b"])
    return (KINDS[2], KINDS[3], None)[held]


def of_dataset(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> float | None:
    """Return the mean cosine of the pairs of a kind that ``name`` stands in; None where there is none."""
    found = [float(r["cosine"]) for r in rows if kind_of(r) == kind and name in (r["dataset_a"], r["dataset_b"])]
    return float(np.mean(found)) if found else None


def kept(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return what a mean over the training data sets keeps of a move's length, and what it would keep of unrelated ones.

    Moves are taken as equally long: of N unit vectors of mean cosine c the mean has the length sqrt((1 + (N - 1) c) / N).
    """
    pairs = [r for r in rows if kind_of(r) == KINDS[2]]
    number = len({r[f"dataset_{side}"] for r in pairs for side in "ab"})
    mean = float(np.mean([float(r["cosine"]) for r in pairs]))
    return float(np.sqrt(max(1 + (number - 1) * mean, 0.0) / number)), float(np.sqrt(1 / number))


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    names = sorted({r[f"dataset_{side}"] for r in rows for side in "ab"})
    held = sorted({r[f"dataset_{side}"] for r in rows for side in "ab" if int(r[f"held_out_{side}"])})
    summary, by_set = [], []
    for move in MOVES:
        mine = [r for r in rows if r["move"] == move]
        norms = [float(r[f"norm_{side}"]) for r in mine for side in "ab"]
        line: dict[str, Any] = {"move": move, "length of a move": f"{np.mean(norms):.2f}"}
        for kind in KINDS:
            values = [v for n in names if (v := of_dataset(mine, kind, n)) is not None and (kind != KINDS[3] or n in held)]
            low, high = bootstrap_interval(values)
            line[kind] = f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"
        whole, chance = kept(mine)
        line["a mean over training sets keeps"] = f"{whole:.3f} (unrelated: {chance:.3f})"
        summary.append(line)
    for name in names:
        entry: dict[str, Any] = {"data set": f"{name} (held out)" if name in held else name}
        for move, title in zip(list(MOVES)[::2], ("adapted", "learner"), strict=True):
            mine = [r for r in rows if r["move"] == move]
            for kind in (*KINDS[:2], KINDS[3] if name in held else KINDS[2]):
                value = of_dataset(mine, kind, name)
                what = "training sets" if kind in KINDS[2:] else kind.split(", ")[1]
                entry[f"{title}: {what}"] = "" if value is None else f"{value:.3f}"
        by_set.append(entry)
    about, codes = rows[0], ", ".join(sorted({r[f"code_{side}"] for r in rows for side in "ab"}))
    return (
        "# Which tasks pull the weights where\n\nMade by `python scripts/task_pull.py CACHE RUN WORK docs/results` from `task_pull.csv.xz`: cosines "
        f"between what is moved (weights of stem and body; all labels of a data set, up to {SHOTS} scans, alpha kept) by the benchmark's "
        f"adaptation and by the run's task learner, whose moves Reptile averages. One meta-training (checkpoint {about['checkpoint']}, held out: "
        f"{', '.join(held)}), one set of fresh weights. Intervals are over "
        f"data sets, of which any two share one of the pair, so they are too narrow. Code: {codes}.\n\n{markdown_table(summary)}\n\n"
        f"By data set, from the meta-learned state (*training sets*: with the other data sets of training):\n\n{markdown_table(by_set)}\n"
    )


if __name__ == "__main__":
    if sys.argv[2] == "-":
        write_text(Path(sys.argv[4]) / "task_pull.md", page(read_csv(Path(sys.argv[4]) / "task_pull.csv.xz")))
    else:
        main(*(Path(argument) for argument in sys.argv[1:5]))
