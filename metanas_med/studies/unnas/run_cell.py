"""One cell: fresh weights, a training whose number of steps follows from its pace, and scores on scans of other patients."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.cached import CachedDataset
from ...engine.adapt import mean_of, score
from ...engine.checkpoint import code_revision
from ...engine.model import Model
from ...engine.solve import open_task
from ...engine.state import build_network
from ...errors import ConfigError, StorageError
from ...files import write_json
from ...learner import Context, DartsLearner, DartsSettings, Runtime, Task, choose_runtime
from ...machine import cpu_model
from ...space import calibrate, derive
from ...space.network import SegmentationNet
from ...tasks.episode import Episode, check_patients, make_episode
from ...tasks.organ import OrganTask, task_in
from ..grid.cases import hash_names, open_prepared, other_patients, query_cases
from ..grid.cells import write_cell
from .architectures import Architecture, draw_architectures
from .cells import LABELS, SPARE, Cell
from .settings import UnnasSettings
from .tasks import PretextTask, confusion, open_pretext, scores_of

log = logging.getLogger(__name__)

COLUMNS = (
    "architecture", "hash", "levels", "base_width", "parameters", "multiply_adds", "receptive_field", "dataset", "organ", "task", "seed",
    "dice", "accuracy", "train_dice", "train_accuracy", "train_loss", "steps", "cpu_seconds", "wall_seconds", "num_train", "num_query",
    "train_hash", "query_hash", "precision", "machine", "code",
)  # fmt: skip

#: steps of the first trial that times a step, and the share of the training that a second trial may take where steps are short
_TRIAL, _TRIAL_SHARE = 8, 0.03


@dataclass(frozen=True)
class Trained:
    """A finished training.

    ``cpu_seconds``: of the steps, on the thread that takes them; ``wall_seconds``: of the whole training.
    """

    net: SegmentationNet
    steps: int
    cpu_seconds: float
    wall_seconds: float
    report: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """What a cell trains: an architecture, a data set with its training and query cases, and the device."""

    settings: UnnasSettings
    cell: Cell
    architecture: Architecture
    dataset: CachedDataset
    train: list[str]
    query: list[str]
    runtime: Runtime

    @classmethod
    def of(cls, settings: UnnasSettings, cell: Cell) -> Training:
        architecture = draw_architectures(settings)[cell.number]
        dataset = open_prepared(str(Path(settings.cache) / f"{settings.dataset}.h5"))
        return cls(
            settings, cell, architecture, dataset, *split(dataset, settings.num_query), choose_runtime("cpu", settings.precision)
        )

    @property
    def organ(self) -> OrganTask:
        return task_in(self.dataset, self.settings.organ)

    @cached_property
    def episode(self) -> Episode:
        """The training scans with their labels."""
        return make_episode(self.dataset, self.organ, self.train, [], self.settings.plan, max(self.settings.levels))

    def pretext(self) -> PretextTask:
        """Return the pretext task with its volumes drawn from the start."""
        return open_pretext(self.dataset, self.train, self.query, self.cell.task, self.settings, self.architecture.space.dims)

    def task(self, part: int) -> Task:
        """Return the task, with its own random draws for each ``part``."""
        if self.cell.task == LABELS:
            return open_task(self.episode, self.settings.plan, _generator(self.settings, self.cell, part))[0]
        return self.pretext().task


def work(job: tuple[UnnasSettings, Cell]) -> None:
    """Make one cell's file, unless it exists; where that fails, note why."""
    settings, cell = job
    write_cell(settings, cell, lambda: run_cell(settings, cell))


def measure(job: tuple[UnnasSettings, Cell]) -> None:
    """Note the pace of one cell, unless it is known. Where that fails, the cell will fail later and say why."""
    torch.set_num_threads(1)
    try:
        pace_of(Training.of(*job))
    except StorageError:
        raise
    except Exception:
        log.warning("the pace of %s could not be measured", job[1].name, exc_info=True)


def split(dataset: CachedDataset, num_query: int) -> tuple[list[str], list[str]]:
    """Return training and query cases: the query is chosen first, all cases of other patients train; ConfigError for too few."""
    query = query_cases(dataset, num_query)
    patient = {c.name: c.patient for c in dataset.cases}
    train = sorted(other_patients(dataset, query))
    if len({patient[n] for n in train}) < 2:
        raise ConfigError(
            f"num_query: {num_query} query scans leave {len(train)} scan(s) of {dataset.name} to train on; expected at least "
            "two patients"
        )
    check_patients(dataset, train, query)
    return train, query


def run_cell(settings: UnnasSettings, cell: Cell) -> dict[str, Any]:
    """Return the row and the details of one cell."""
    begin, code = time.perf_counter(), code_revision()  # now: a later commit is not the code that trains
    training = Training.of(settings, cell)
    architecture, dataset = training.architecture, training.dataset
    trained = fit(training, steps_in(settings.seconds, pace_of(training)))
    measured = (_score_labels if cell.task == LABELS else _score_pretext)(training, trained.net)
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
        "train_loss": round(float(np.mean(trained.report["losses"])), 5),
        "steps": trained.steps,
        "cpu_seconds": round(trained.cpu_seconds, 2),
        "wall_seconds": round(trained.wall_seconds, 2),
        "num_train": len(training.train),
        "num_query": len(training.query),
        "train_hash": hash_names(training.train),
        "query_hash": hash_names(training.query),
        "precision": "bfloat16" if training.runtime.bfloat16 else "float32",
        "machine": cpu_model(),
        "code": code,
    }
    return {
        "cell": asdict(cell),
        "row": row,
        "genotype": dict(architecture.genotype),
        "cell_seconds": round(time.perf_counter() - begin, 3),
        "scores": measured.get("scores", {}),
        "report": trained.report,
    }


def _score_labels(t: Training, net: SegmentationNet) -> dict[str, Any]:
    """Return the mean Dice of whole query scans in native spacing."""
    model = Model(net, t.episode.plan, t.organ, t.architecture.space, dict(t.architecture.genotype), t.runtime)
    scores = score(model, t.dataset, t.query)
    return {"dice": mean_of(scores), "scores": scores}


def _score_pretext(t: Training, net: SegmentationNet) -> dict[str, Any]:
    """Return the scores on fixed volumes of training and query scans. Reads no label."""
    own = t.pretext()
    measured: dict[str, Any] = {}
    for prefix, volumes in (("train_", own.train), ("", own.query)):
        found = scores_of(confusion(net, volumes, own.task, t.runtime))
        measured |= {f"{prefix}dice": found[0], f"{prefix}accuracy": found[1]}
    return measured


def _generator(settings: UnnasSettings, cell: Cell, part: int = 0) -> np.random.Generator:
    """Return the generator of a cell: it depends on task and seed, and is the same for all architectures."""
    named = int(hashlib.sha256(cell.task.encode()).hexdigest()[:8], 16)
    return np.random.default_rng([settings.seed, 71, named, cell.seed, part])


def fresh_network(settings: UnnasSettings, cell: Cell, architecture: Architecture) -> SegmentationNet:
    """Return the discrete network with new weights, which differ for every architecture, task and seed."""
    seed = int(_generator(settings, cell, 1000 + cell.number).integers(2**31))
    net = build_network(architecture.space, seed)
    return net.with_body(derive(net.body, architecture.genotype))


def steps_in(seconds: float, a_step: float) -> int:
    """Return how many steps take ``SPARE`` times ``seconds`` of processor time."""
    return 1 + math.ceil(SPARE * seconds / a_step)  # the first step is not timed: it includes the start of the head


def fit(training: Training, steps: int) -> Trained:
    """Return a new network of the architecture, trained for ``steps``; learning rates decay over all of them."""
    settings, cell, runtime = training.settings, training.cell, training.runtime
    net = fresh_network(settings, cell, training.architecture)
    task = training.task(0)
    net.start_task(task.num_channels, task.num_organs)
    with torch.no_grad():
        images = runtime.place(task.support.views(0).images[:1])
        calibrate(net.body, [(net.stem(images, net.task["channels"]), task.strides)])
    marks: list[float] = []
    begin = time.perf_counter()
    adapted = DartsLearner(_learner(settings).model_copy(update={"steps": steps})).run(
        net,
        training.task(2),
        Context(_generator(settings, cell, 3), runtime, lambda step, loss: marks.append(time.thread_time())),
    )
    wall = time.perf_counter() - begin
    adapted.net.eval()
    return Trained(adapted.net, steps, marks[-1] - marks[0], wall, adapted.report.to_json())


def _learner(settings: UnnasSettings) -> DartsSettings:
    return settings.train.model_copy(update={"alpha": "frozen"})


def pace_path(settings: UnnasSettings, cell: Cell) -> Path:
    """Return the file with the time of a step of the cell's architecture on its task, for all seeds."""
    return Path(settings.out) / "pace" / f"a{cell.number:03d}-{cell.hash}-{cell.task}.json"


def pace_of(training: Training) -> float:
    """Return the noted processor seconds of a step; where there is no note, measure and note them.

    Numbers of steps follow from them. All are noted before the first training, because the speed of a machine varies: an
    architecture trained in a slow hour would get fewer steps on all tasks, and its scores would seem to agree.
    """
    path = pace_path(training.settings, training.cell)
    if not path.exists():
        cell = training.cell
        found: dict[str, Any] = {"architecture": cell.number, "hash": cell.hash, "task": cell.task}
        found |= {"step_seconds": round(step_seconds(training), 6), "machine": cpu_model(), "code": code_revision()}
        write_json(path, found)
    return float(json.loads(path.read_text())["step_seconds"])


def step_seconds(training: Training) -> float:
    """Return the median processor seconds of a step, from one short trial, or a longer one where steps are short.

    Only the thread that takes the steps counts: other work on the machine changes the result little, and making batches is
    not included.
    """
    settings, cell = training.settings, training.cell
    learner = _learner(settings)

    def trial(steps: int) -> float:
        marks: list[float] = []
        DartsLearner(learner.model_copy(update={"steps": steps, "head": "meta_row"})).run(
            fresh_network(settings, cell, training.architecture),
            training.task(1),
            Context(_generator(settings, cell, 4), training.runtime, lambda step, loss: marks.append(time.thread_time())),
        )
        return max(float(np.median(np.diff(marks))), 1e-6)

    a_step = trial(_TRIAL)
    longer = int(_TRIAL_SHARE * settings.seconds / a_step)
    return trial(longer) if longer > 2 * _TRIAL else a_step
