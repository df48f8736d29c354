"""What the stages of the main job cost on this machine: meta-training, adapting, predicting.

The data are phantoms and the settings are the shipped ones: views, batches and networks determine the cost of a step, not the
content of scans. A page may show several machines. Rows of other machines are kept; those of this one are replaced, stage by
stage.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.cache import prepare
from ...data.cached import open_cache
from ...data.phantom import make_phantoms
from ...data.plan import Plan
from ...engine.adapt import AdaptSettings, adapt
from ...engine.meta_train import MetaTraining
from ...engine.model import Model
from ...engine.settings import Settings, load_settings
from ...errors import DataError
from ...files import check_folder, read_csv, write_csv, write_text
from ...learner import Runtime, choose_runtime
from ...report.tables import markdown_table
from ...resources import find_resource
from . import job_step
from .process import GIB, in_fresh_process, peak_bytes, provenance, reset_peak, synchronize

PAGE, CSV = "job.md", "job.csv"
HELD_OUT, SHOTS = "Phantom04_Lobes", 5
#: views along every axis of a scan that is segmented: the organ fills about a third of it
VIEWS = 3
_NUMBERS = ("seconds", "each", "waiting", "memory_gib", "device_gib")
COLUMNS = ("what", *_NUMBERS, "precision", "code", "seed", "device", "threads", "torch")
#: the key of a row; machines are identified by the name of their processor or GPU
_KEY = ("device", "threads", "precision", "what")

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What is timed: meta-iterations, numbers of steps, and shapes of the scans that are segmented."""

    config: str = "meta_train"
    overrides: tuple[str, ...] = ()
    iterations: int = 40
    steps: tuple[int, ...] = (20, 100)
    shapes: tuple[tuple[int, int, int], ...] = ((64, 64, 60), (512, 512, 250))
    scale: float = 1.0  #: of the phantoms' voxels along each axis


def bench_job(out: Path, quick: bool = False, job: Job | None = None) -> dict[str, list[Row]]:
    """Return the tables of this machine and of those that ``out`` already has, by machine.

    Writes ``job.csv`` and ``job.md`` to ``out``, and everything else to a temporary folder. Takes three to five minutes on
    one core, one with ``quick``. Every stage runs in a new process that loads its libraries before the clock starts. For
    adapting and predicting, the process also does less of the same work first. Seconds cover the work alone, peaks the whole
    process. Raises StorageError where ``out`` cannot be written, and DataError for a ``job.csv`` that is damaged or of
    another version, before anything is timed.
    """
    out = Path(out)
    check_folder(out)
    before = _read(out / CSV) if (out / CSV).exists() else []
    job = job or (Job(iterations=10, steps=(20,), shapes=((64, 64, 60),)) if quick else Job())
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(Path(folder), job)
    mine = {_key(row) for row in rows}
    write_csv(out / CSV, [*(row for row in before if _key(row) not in mine), *rows], COLUMNS)
    return report(out)


def report(out: Path) -> dict[str, list[Row]]:
    """Return the tables by machine after writing ``job.md`` from the CSV files in ``out`` alone.

    DataError where they cannot be read.
    """
    step, steps = job_step.section(out)
    if not (out / CSV).exists() and not steps:
        raise DataError(f"{out / CSV} is not there. Run the study without --report first.")
    rows = _read(out / CSV) if (out / CSV).exists() else []
    tables = dict[str, list[Row]]()
    for row in rows:
        title = f"{row['device']}, {row['threads']} thread(s), {row['precision']}"
        tables.setdefault(title, []).append({name: row[name] for name in ("what", *_NUMBERS)})
    words = (
        "# What the main job costs\n\nWritten by `metanas-med study bench job` on phantoms, with the settings of "
        f"`configs/meta_train.yaml`, one run a machine. Adapting uses {SHOTS} scans and covers everything from reading them to "
        f"the model's files. A scan that is segmented is {VIEWS} views wide along every axis, whatever its voxels.\n\n"
        "`each`: seconds an iteration, a step or a scan. `waiting`: the share of the seconds in which the loop waited for "
        "data. Memory: the peak of the process, and of torch on a CUDA device. Starting Python and torch is not counted. The "
        "first use of kernels is counted for meta-training alone.\n\n"
    )
    parts = [f"## {title}\n\n{markdown_table(table)}\n" for title, table in tables.items()]
    made = dict.fromkeys(f"{row['device']}: code {row['code']}, torch {row['torch']}" for row in rows)
    jobs = words + "\n".join(parts) + "\n" + "\n".join(f"{line}.  " for line in made) + "\n" if rows else ""
    write_text(out / PAGE, (jobs or "# What the main job costs\n") + (f"\n{step}" if step else ""))
    return {**tables, **({"One step": steps} if steps else {})}


def _read(path: Path) -> list[Row]:
    """Return the rows of a ``job.csv`` with measures as numbers and blank ones as None; DataError for any other content."""
    try:
        rows = read_csv(path)
        if rows and all(set(row) == set(COLUMNS) and None not in row.values() for row in rows):
            return [{**row, **{name: float(row[name]) if row[name] else None for name in _NUMBERS}} for row in rows]
    except ValueError:  # no text, or no numbers
        pass
    raise DataError(f"{path} is damaged or of another version. Move it away, or choose another --out.")


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in _KEY)


def _measure(folder: Path, job: Job) -> list[Row]:
    make_phantoms(folder / "data", num_cases=SHOTS + 3, scale=job.scale)
    prepare(sorted((folder / "data").iterdir()), folder / "cache", workers=1)
    changes = ["--cache", str(folder / "cache"), "--meta.iterations", str(job.iterations), "--tasks.hold_out", f"[{HELD_OUT}]"]
    settings = load_settings(find_resource("configs", job.config), [*changes, "--meta.num_validation", "0", *job.overrides])
    runtime = choose_runtime(settings.device, settings.precision)
    note = {"precision": "bfloat16" if runtime.bfloat16 else "float32", **provenance(settings.seed, runtime)}

    def stage(what: str, number: int, work: Callable[..., Row], *arguments: Any) -> Row:
        found = in_fresh_process(_measured, runtime, work, (settings, folder, *arguments))
        return {"what": what, "each": round(found["seconds"] / number, 4), **found, **note}

    return [
        stage(f"meta-train, {job.iterations} iterations", job.iterations, _meta_train),
        *(stage(f"adapt, {SHOTS} scans, {steps} steps", steps, _adapt, steps) for steps in job.steps),
        *(stage(f"predict, {' x '.join(map(str, shape))} voxels", 1, _predict, job.steps[0], shape) for shape in job.shapes),
    ]


def _measured(runtime: Runtime, work: Callable[..., Row], arguments: tuple[Any, ...]) -> Row:
    # modules that are imported late must be loaded before the clock starts
    import monai.inferers.utils
    import monai.losses.dice
    import monai.transforms.compose
    import monai.transforms.intensity.dictionary
    import monai.transforms.spatial.dictionary  # noqa: F401

    cuda = runtime.device.type == "cuda"
    if cuda:
        torch.zeros(1, device=runtime.device)
    reset_peak()
    found = {"waiting": "", **work(*arguments)}
    device = round(torch.cuda.max_memory_allocated(runtime.device) / GIB, 3) if cuda else ""
    return {**found, "seconds": round(found["seconds"], 2), "memory_gib": round(peak_bytes() / GIB, 2), "device_gib": device}


def _meta_train(settings: Settings, folder: Path) -> Row:
    run = MetaTraining(settings, folder / "run", resume=False)
    run.run()
    return {"seconds": run.at.seconds, "waiting": round(run.at.waited / max(run.at.seconds, 1e-9), 4)}


def _adapt(settings: Settings, folder: Path, steps: int) -> Row:
    data = open_cache(folder / "cache" / f"{HELD_OUT}.h5")
    own = AdaptSettings(shots=SHOTS, steps=steps, evaluate=0, device=settings.device, precision=settings.precision)
    adapt(folder / "run", data, folder / f"first{steps}", own.model_copy(update={"steps": min(steps, 2)}))
    start = time.perf_counter()
    note = adapt(folder / "run", data, folder / f"model{steps}", own)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "waiting": round(note["data_wait_share"] * note["seconds"] / seconds, 4)}


def _predict(settings: Settings, folder: Path, steps: int, shape: tuple[int, int, int]) -> Row:
    model = Model.load(folder / f"model{steps}", settings.device, settings.precision)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    spacing = scan_spacing(model.plan, shape)
    half = (slice(None), *(slice((n + 1) // 2) for n in shape))  # fewer windows of the same shape
    model.segment(image[half], spacing)
    start = time.perf_counter()
    model.segment(image, spacing)
    synchronize(model.runtime)
    return {"seconds": time.perf_counter() - start}


def scan_spacing(plan: Plan, shape: Sequence[int]) -> tuple[float, float, float]:
    """Return the spacing (mm, canonical order) of a scan of ``shape`` that is ``VIEWS`` views wide along every axis."""
    spacing = [0.0, 0.0, 0.0]
    for axis, size, view in zip(plan.axes, plan.spacing, plan.view, strict=True):
        spacing[axis] = VIEWS * view * size / shape[axis]
    return spacing[0], spacing[1], spacing[2]
