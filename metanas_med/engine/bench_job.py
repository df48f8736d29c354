"""``metanas-med bench job``: what the main job takes on this machine, stage by stage: meta-training, adapting, predicting.

On the phantom decathlon, through the shipped settings: what a step costs is decided by views, batches and networks, not by what scans show.
A page may hold several machines: rows of others are kept, those of this one replaced.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Settings, load_settings
from ..data.cache import prepare
from ..data.phantom import make_phantoms
from ..data.plan import Plan
from ..errors import DataError
from ..files import read_csv, write_csv, write_text
from ..learner import choose_runtime
from ..report.tables import markdown_table
from ..resources import find_resource
from .adapt import adapt
from .bench_note import in_fresh_process, peak_bytes, provenance, reset_peak, synchronize
from .meta_train import MetaTraining
from .model import Model

PAGE, CSV = "job.md", "job.csv"
HELD_OUT, SHOTS = "Phantom04_Lobes", 5
#: a scan of which so many views stand side by side along every axis: an organ of a part of the body
VIEWS = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """How much is timed: meta-iterations, the numbers of steps, and the shapes of the scans that are segmented."""

    config: str = "meta_train"
    overrides: tuple[str, ...] = ()
    iterations: int = 40
    steps: tuple[int, ...] = (20, 100)
    shapes: tuple[tuple[int, int, int], ...] = ((64, 64, 60), (512, 512, 250))
    scale: float = 1.0  #: of the phantoms' voxels along each axis


def bench_job(out: Path, quick: bool = False, job: Job | None = None) -> dict[str, list[Row]]:
    """Return the table of what each stage takes, of this machine and of those whose rows are in ``out`` already.

    Writes ``job.csv`` and ``job.md`` to ``out``; the model and the phantoms are made in a temporary folder. Takes three to five minutes on
    one core, one when ``quick``. Every stage runs in a process of its own, started and warm before its clock runs: seconds are of the work,
    peaks of the whole process. Of a CUDA device, the peak of what torch took of its memory stands beside.
    """
    job = job or (Job(iterations=10, steps=(20,), shapes=((64, 64, 60),)) if quick else Job())
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(Path(folder), job)
    path = Path(out) / CSV
    mine = (rows[0]["device"], str(rows[0]["threads"]))
    others = [row for row in read_csv(path) if (row["device"], row["threads"]) != mine] if path.exists() else []
    write_csv(path, [*others, *rows])
    return report(Path(out))


def report(out: Path) -> dict[str, list[Row]]:
    """Return the tables, by machine, after writing ``job.md`` from the CSV file in ``out`` alone."""
    path = out / CSV
    if not path.exists():
        raise DataError(f"{path} is not there. Run the command without --report first.")
    tables: dict[str, list[Row]] = {}
    for row in read_csv(path):
        title = f"{row['device']}, {row['threads']} thread(s), {row['precision']}"
        shown = {name: row[name] for name in ("what", "seconds", "each", "waiting", "memory_gib", "device_gib")}
        tables.setdefault(title, []).append({name: _number(value) for name, value in shown.items()})
    made = sorted({f"{row['device']}: code {row['code']}, torch {row['torch']}" for row in read_csv(path)})
    words = (
        "# What the main job takes\n\nMade by `metanas-med bench job` on phantoms, by the settings of `configs/meta_train.yaml`, one run "
        f"a machine. Five scans, eight patches a step. A scan that is segmented is {VIEWS} views wide along every axis, whatever its voxels. "
        "`each`: seconds an iteration, a step or a scan; `waiting`: the share of the time in which the loop waited for data; memory: the peak of "
        "the process, and of what torch took of a CUDA device. Starting Python and torch is not counted.\n\n"
    )
    parts = [f"## {title}\n\n{markdown_table(rows)}\n" for title, rows in tables.items()]
    write_text(out / PAGE, words + "\n".join(parts) + "\n" + "\n".join(f"{line}.  " for line in made) + "\n")
    return tables


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text or None


def _measure(folder: Path, job: Job) -> list[Row]:
    make_phantoms(folder / "data", num_cases=SHOTS + 3, scale=job.scale)
    prepare(sorted((folder / "data").iterdir()), folder / "cache", workers=1)
    changes = ["--cache", str(folder / "cache"), "--meta.iterations", str(job.iterations), "--tasks.hold_out", f"[{HELD_OUT}]"]
    settings = load_settings(find_resource("configs", job.config), [*changes, "--meta.num_validation", "0", *job.overrides])
    runtime = choose_runtime(settings.device, settings.precision)
    note = {"precision": "bfloat16" if runtime.bfloat16 else "float32", **provenance(settings.seed, runtime)}
    rows = [_stage(f"meta-train, {job.iterations} iterations", job.iterations, _meta_train, settings, folder)]
    for steps in job.steps:
        rows.append(_stage(f"adapt, {SHOTS} scans, {steps} steps", steps, _adapt, settings, folder, steps))
    for shape in job.shapes:
        rows.append(_stage(f"predict, {' x '.join(map(str, shape))} voxels", 1, _predict, folder, shape, job.steps[0], settings))
    return [{**row, **note} for row in rows]


def _stage(what: str, number: int, job: Callable[..., Row], *arguments: Any) -> Row:
    found = in_fresh_process(_measured, job, arguments)
    return {"what": what, "seconds": round(found["seconds"], 2), "each": round(found["seconds"] / number, 4), **found["more"]}


def _measured(job: Callable[..., Row], arguments: tuple[Any, ...]) -> Row:
    # what is loaded late is loaded before the clock runs
    import monai.inferers.utils
    import monai.transforms.compose
    import monai.transforms.intensity.dictionary
    import monai.transforms.spatial.dictionary  # noqa: F401

    cuda = torch.cuda.is_available()
    if cuda:
        torch.zeros(1, device="cuda")
    reset_peak()
    found = job(*arguments)
    peak = {"memory_gib": round(peak_bytes() / 2**30, 2)}
    device = {"device_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3) if cuda else ""}
    return {"seconds": found.pop("seconds"), "more": {"waiting": found.get("waiting", ""), **peak, **device}}


def _meta_train(settings: Settings, folder: Path) -> Row:
    run = MetaTraining(settings, folder / "run", resume=False)
    run.run()
    return {"seconds": run.seconds, "waiting": round(run.waited / max(run.seconds, 1e-9), 4)}


def _adapt(settings: Settings, folder: Path, steps: int) -> Row:
    """Time a whole adaptation, from reading the scans to the files of the model."""
    start = time.perf_counter()
    out = folder / f"model{steps}"
    note = adapt(
        folder / "run",
        folder / "data" / HELD_OUT,
        out,
        shots=SHOTS,
        steps=steps,
        evaluate=0,
        device=settings.device,
        precision=settings.precision,
    )
    return {"seconds": time.perf_counter() - start, "waiting": round(note["data_wait_share"], 4)}


def _predict(folder: Path, shape: tuple[int, int, int], steps: int, settings: Settings) -> Row:
    model = Model.load(folder / f"model{steps}", settings.device, settings.precision)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    spacing = scan_spacing(model.plan, shape)
    model.segment(image[:, : shape[0] // 8], spacing)  # kernels are chosen at their first use
    start = time.perf_counter()
    model.segment(image, spacing)
    synchronize(model.runtime)
    return {"seconds": time.perf_counter() - start}


def scan_spacing(plan: Plan, shape: Sequence[int]) -> tuple[float, float, float]:
    """Return the spacing (mm, canonical order) at which a scan of ``shape`` is ``VIEWS`` views of ``plan`` wide along every axis."""
    spacing = [0.0, 0.0, 0.0]
    for axis, size, view in zip(plan.axes, plan.spacing, plan.view, strict=True):
        spacing[axis] = VIEWS * view * size / shape[axis]
    return spacing[0], spacing[1], spacing[2]
