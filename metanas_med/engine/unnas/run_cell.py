"""One cell: fresh weights, a training of as many steps as its processor time allows, and scores on scans of other patients."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...config import LearnerSettings, UnnasSettings
from ...data.cached import CachedDataset
from ...errors import ConfigError
from ...learner import DartsLearner, Runtime, Task, choose_runtime
from ...space import calibrate, derive
from ...space.network import SegmentationNet
from ...tasks.episode import check_patients, make_episode
from ...tasks.organ import task_of
from ..adapt import mean_of, score
from ..checkpoint import code_revision
from ..doctor import cpu_model
from ..grid import hash_names, open_prepared, query_cases, write_cell
from ..model import Model
from ..run_task import build_network, open_task
from .architectures import Architecture, draw_architectures
from .cells import LABELS, SPARE, Cell
from .tasks import confusion, open_pretext, scores_of

COLUMNS = (
    "architecture", "hash", "levels", "base_width", "parameters", "multiply_adds", "receptive_field", "dataset", "organ", "task", "seed",
    "dice", "accuracy", "train_dice", "train_accuracy", "steps", "cpu_seconds", "wall_seconds", "num_train", "num_query", "train_hash",
    "query_hash", "precision", "machine", "code",
)  # fmt: skip

#: steps of the first trial of what a step takes, and the share of the training that a second one may take where steps are short
_TRIAL, _TRIAL_SHARE = 8, 0.03


@dataclass(frozen=True)
class Trained:
    """What a training did. ``cpu_seconds``: of the steps alone, as the thread that takes them counts; ``wall_seconds``: of all of it."""

    net: SegmentationNet
    steps: int
    cpu_seconds: float
    wall_seconds: float
    report: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """What a cell trains: an architecture, the data set, its training and query cases, and the machine."""

    settings: UnnasSettings
    cell: Cell
    architecture: Architecture
    dataset: CachedDataset
    train: list[str]
    query: list[str]
    runtime: Runtime

    def fit(self, fresh: Callable[[int], Task]) -> Trained:
        """Return a new network of the architecture trained on ``fresh``; see ``fit``."""
        net = fresh_network(self.settings, self.cell, self.architecture)
        return fit(net, fresh, self.settings, self.cell, self.runtime)


def work(job: tuple[UnnasSettings, Cell]) -> None:
    """Make one cell's file, unless it is there; or a note of why it failed."""
    settings, cell = job
    write_cell(settings, cell, lambda: run_cell(settings, cell))


def split(dataset: CachedDataset, num_query: int) -> tuple[list[str], list[str]]:
    """Return the training and the query cases: the query fixed first, then all cases of other patients; ConfigError where none is left."""
    query = query_cases(dataset, num_query)
    patient = {c.name: c.patient for c in dataset.cases}
    used = {patient[n] for n in query}
    train = sorted(n for n, p in patient.items() if p not in used)
    if len({patient[n] for n in train}) < 2:
        raise ConfigError(
            f"num_query: {num_query} query scans leave {len(train)} scan(s) of {dataset.name} to train on; expected two patients at least"
        )
    check_patients(dataset, train, query)
    return train, query


def run_cell(settings: UnnasSettings, cell: Cell) -> dict[str, Any]:
    """Return the row and the details of one cell."""
    begun, code = time.perf_counter(), code_revision()  # as it is now: a commit while this trains is not what trains
    architecture = draw_architectures(settings)[cell.number]
    dataset = open_prepared(str(Path(settings.cache) / f"{settings.dataset}.h5"))
    train, query = split(dataset, settings.num_query)
    runtime = choose_runtime("cpu", settings.precision)
    run = _run_labels if cell.task == LABELS else _run_pretext
    trained, measured = run(Training(settings, cell, architecture, dataset, train, query, runtime))
    row = {
        "architecture": cell.number,
        "hash": cell.hash,
        **{k: getattr(architecture, k) for k in ("levels", "base_width", "parameters", "multiply_adds")},
        "receptive_field": round(architecture.receptive_field, 2),
        "dataset": dataset.name,
        "organ": settings.organ if cell.task == LABELS else "",
        "task": cell.task,
        "seed": cell.seed,
        **{
            k: "" if (v := measured.get(k)) is None else round(v, 5) for k in ("dice", "accuracy", "train_dice", "train_accuracy")
        },
        "steps": trained.steps,
        "cpu_seconds": round(trained.cpu_seconds, 2),
        "wall_seconds": round(trained.wall_seconds, 2),
        "num_train": len(train),
        "num_query": len(query),
        "train_hash": hash_names(train),
        "query_hash": hash_names(query),
        "precision": "bfloat16" if runtime.bfloat16 else "float32",
        "machine": cpu_model(),
        "code": code,
    }
    return {
        "cell": asdict(cell),
        "row": row,
        "genotype": dict(architecture.genotype),
        "cell_seconds": round(time.perf_counter() - begun, 3),
        "scores": measured.get("scores", {}),
        "report": trained.report,
    }


def _run_labels(t: Training) -> tuple[Trained, dict[str, Any]]:
    """Return the training on the organ's labels and the mean Dice of whole query scans in native spacing."""
    organ = task_of(t.dataset.name, t.dataset.labels, t.settings.organ)
    episode = make_episode(t.dataset, organ, t.train, [], t.settings.plan, max(t.settings.levels))
    trained = t.fit(lambda part: open_task(episode, t.settings.plan, _generator(t.settings, t.cell, part))[0])
    model = Model(trained.net, episode.plan, organ, t.architecture.space, dict(t.architecture.genotype), t.runtime)
    scores = score(model, t.dataset, t.query)
    return trained, {"dice": mean_of(scores), "scores": scores}


def _run_pretext(t: Training) -> tuple[Trained, dict[str, Any]]:
    """Return the training on a pretext and its scores on fixed volumes of training and query scans; no label is read."""
    s, levels, dims = t.settings, max(t.settings.levels), t.architecture.space.dims
    name = (t.cell.task, s.pretext, s.plan, levels, dims, s.query_volumes, s.seed)
    trained = t.fit(lambda part: open_pretext(t.dataset, t.train, t.query, *name).task)
    own = open_pretext(t.dataset, t.train, t.query, *name)
    measured: dict[str, Any] = {}
    for prefix, volumes in (("train_", own.train), ("", own.query)):
        found = scores_of(confusion(trained.net, volumes, own.task, t.runtime))
        measured |= {f"{prefix}dice": found[0], f"{prefix}accuracy": found[1]}
    return trained, measured


def _generator(settings: UnnasSettings, cell: Cell, part: int = 0) -> np.random.Generator:
    """Return the draws of a cell: of its task and seed, and alike for all architectures."""
    named = int(hashlib.sha256(cell.task.encode()).hexdigest()[:8], 16)
    return np.random.default_rng([settings.seed, 71, named, cell.seed, part])


def fresh_network(settings: UnnasSettings, cell: Cell, architecture: Architecture) -> SegmentationNet:
    """Return the discrete network with new weights: others for every architecture, task and seed: no two scores share a start's luck."""
    seed = int(_generator(settings, cell, 1000 + cell.number).integers(2**31))
    net = build_network(architecture.space, seed)
    return net.with_body(derive(net.body, architecture.genotype))


def fit(net: SegmentationNet, fresh: Callable[[int], Task], settings: UnnasSettings, cell: Cell, runtime: Runtime) -> Trained:
    """Return ``net``, changed in place, trained for ``seconds`` of processor time; ``fresh(part)`` is its task with draws of its own.

    The rates fall over the whole training, so its number of steps is fixed beforehand, by trials on copies of the network. Processor time is that
    of the thread that takes the steps: what else runs on the machine hardly changes it, and making batches does not count.
    """
    task = fresh(0)
    net.start_task(task.num_channels, task.num_organs)
    with torch.no_grad():
        images = runtime.place(task.support.views(0).images[:1])
        calibrate(net.body, [(net.stem(images, net.task["channels"]), task.strides)])
    learner = settings.train.model_copy(update={"alpha": "frozen"})
    a_step = step_seconds(net, fresh, learner, settings, cell, runtime)
    steps = 1 + math.ceil(SPARE * settings.seconds / a_step)  # the time of the first is not told from that of the head's start
    marks: list[float] = []
    begun = time.perf_counter()
    adapted = DartsLearner(learner.model_copy(update={"steps": steps})).run(
        net, fresh(2), _generator(settings, cell, 3), runtime, lambda step, loss: marks.append(time.thread_time())
    )
    wall = time.perf_counter() - begun
    adapted.net.eval()
    return Trained(adapted.net, steps, marks[-1] - marks[0], wall, adapted.report.to_json())


def step_seconds(
    net: SegmentationNet,
    fresh: Callable[[int], Task],
    learner: LearnerSettings,
    settings: UnnasSettings,
    cell: Cell,
    runtime: Runtime,
) -> float:
    """Return the median processor time of a step, seconds, by one short trial and, where steps are short, one of more of them."""

    def trial(steps: int) -> float:
        marks: list[float] = []
        DartsLearner(learner.model_copy(update={"steps": steps, "head": "meta_row"})).run(
            copy.deepcopy(net),
            fresh(1),
            _generator(settings, cell, 4),
            runtime,
            lambda step, loss: marks.append(time.thread_time()),
        )
        return max(float(np.median(np.diff(marks))), 1e-6)

    a_step = trial(_TRIAL)
    longer = int(_TRIAL_SHARE * settings.seconds / a_step)
    return trial(longer) if longer > 2 * _TRIAL else a_step
