"""A dry run of the full Medical Segmentation Decathlon, on phantoms with the true shapes, channels and labels.

It measures memory, and how long the full run would take here. The phantoms are balls, so the networks learn nothing useful.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...data.cache import open_caches, prepare
from ...data.cached import open_cache
from ...data.phantom import make_msd_shapes
from ...engine.meta_train import MetaTraining
from ...engine.phases import features_around, share_of
from ...engine.predict import predict_labels
from ...engine.settings import Settings, load_settings
from ...engine.solve import Solver
from ...engine.state import build_network
from ...errors import DataError
from ...files import read_csv, write_csv, write_text
from ...learner import LearnerSettings, choose_runtime
from ...report.tables import markdown_table
from ...resources import find_resource
from ...space import cost
from ...tasks.episode import Episode, make_episode
from ...tasks.organ import task_in
from .process import GIB, in_fresh_process, measured, provenance

#: peak memory that no stage may exceed, in GiB
MEMORY_GOAL = 8.0
#: assumed throughput of one data-centre GPU on these convolutions in bfloat16, forward and backward: multiply-adds a second
ASSUMED_GPU = 15e12
PAGE, CSV = "msd_dry_run.md", "msd_dry_run.csv"
_LOADING = "load an episode"
TASKS = ("Task01", "Task03", "Task08")

Row = dict[str, Any]


@dataclass(frozen=True)
class DryRun:
    """The part of the full run that is done: one meta-iteration of all its tasks, each with fewer steps."""

    config: str = "meta_train_msd"
    overrides: tuple[str, ...] = ()
    steps: int = 2
    scans: int = 2  #: phantoms of each task; additional names point to the same scans
    predict: bool = True


def bench_msd(out: Path, quick: bool = False, dry: DryRun | None = None) -> dict[str, list[Row]]:
    """Return the tables of the dry run: memory and time by stage, and the expected time of the full run.

    Writes ``msd_dry_run.csv`` and ``msd_dry_run.md`` to ``out``. Takes minutes; ``quick`` takes one step a task and skips the
    adaptation and the prediction of a whole scan. Every stage runs in a new process, so that peak memory is the stage's own.
    """
    out = Path(out)
    dry = dry or DryRun(steps=1 if quick else 2, predict=not quick)
    settings = load_settings(find_resource("configs", dry.config), [*dry.overrides, "--cache", str(out / "msd_cache")])
    shots = max(settings.tasks.shots)
    stages = [
        _stage("make phantoms", make_msd_shapes, out / "msd", TASKS, dry.scans),
        _stage("prepare", _prepare, out, shots + settings.tasks.num_query),
        *(_stage(f"{_LOADING} of {task}", _load, settings, task, shots) for task in TASKS),
        _stage(f"meta-training, {settings.meta.batch} runs of the task learner", _iterate, settings, shots, dry.steps, False),
        _stage(f"meta-training, {settings.meta.batch} episodes of features", _iterate, settings, shots, dry.steps, True),
    ]
    if dry.predict:
        stages.append(_stage("adapt to Task03, cross-fitted, and switch", _adapt, settings, "Task03", shots, dry.steps))
        stages.append(_stage("segment a whole scan of Task03", _predict, settings, "Task03"))
    note = provenance(settings.seed, choose_runtime(settings.device, settings.precision))
    write_csv(out / CSV, [{**stage, **note, "steps": dry.steps, "scans": dry.scans} for stage in stages])
    return report(out, dry)


def report(out: Path, dry: DryRun | None = None) -> dict[str, list[Row]]:
    """Return the tables from the CSV in ``out`` and write the page; DataError where there is none."""
    path = Path(out) / CSV
    if not path.exists():
        raise DataError(f"{path} is not there. Run metanas-med study bench msd --out {out} first.")
    rows = read_csv(path)
    dry = dry or DryRun()
    settings = load_settings(find_resource("configs", dry.config), dry.overrides)
    stages: list[Row] = [
        {
            "stage": row["stage"],
            **{name: float(row[name]) for name in ("seconds", "peak GiB", "goal GiB")},
            "reached": row["reached"] == "True",
            "evaluations": int(row["evaluations"]) if row["evaluations"] else None,
            "seconds an evaluation": float(row["seconds an evaluation"]) if row["evaluations"] else None,
        }
        for row in rows
    ]
    tables = {"Memory and time by stage": stages, "The full run": expected_run(settings, stages)}
    done = replace(
        dry, steps=int(rows[0].get("steps", 1)), scans=int(rows[0].get("scans", 2))
    )  # older CSV files did not note these
    write_text(Path(out) / PAGE, _page(tables, rows[0], max(settings.tasks.shots), done))
    return tables


def _stage(name: str, job: Callable[..., Any], *arguments: Any) -> Row:
    seconds, peak, details = in_fresh_process(_stage_of, job, arguments)
    gib = round(peak / GIB, 2)
    return {
        "stage": name,
        "seconds": round(seconds, 1),
        "peak GiB": gib,
        "goal GiB": MEMORY_GOAL,
        "reached": gib < MEMORY_GOAL,
        "evaluations": details["evaluations"] if isinstance(details, dict) else None,
        "seconds an evaluation": round(details["seconds"] / details["evaluations"], 3) if isinstance(details, dict) else None,
    }


def _stage_of(job: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, int, Any]:
    seconds, peak, found = measured(job, *arguments)
    return seconds, peak, found if isinstance(found, dict) else None  # other results need not travel between processes


def _prepare(out: Path, names: int) -> None:
    """Prepare the phantoms, and give each data set ``names`` cases, which share its scans."""
    prepare(sorted((out / "msd").iterdir()), out / "msd_cache", workers=1)
    for path in sorted((out / "msd_cache").glob("*.h5")):
        repeat_cases(path, names)


def repeat_cases(path: Path, number: int) -> None:
    """Add names for the scans of a cache file until it has ``number`` cases.

    Reading them costs as much as reading other scans.
    """
    meta = open_cache(path).meta
    entries: list[dict[str, Any]] = meta["cases"]
    with h5py.File(path, "r+") as file:
        for index in range(len(entries), number):
            source = entries[index % len(entries)]
            name = f"{source['name']}_again{index}"
            for kind in ("images", "labels"):
                file[kind][name] = file[kind][source["name"]]  # type: ignore[index]  # a hard link
            # a content of its own: scans with the same voxels count as one patient
            content_hash = hashlib.sha256(f"{source['content_hash']} {index}".encode()).hexdigest()
            entries.append({**source, "name": name, "patient": name, "content_hash": content_hash})
        del file["meta"]
        content = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        file.create_dataset("meta", data=content, chunks=content.shape, fletcher32=True)


def _load(settings: Settings, task: str, shots: int) -> Episode:
    dataset = next(d for name, d in open_caches(settings.cache).items() if name.startswith(task))
    names = [case.name for case in dataset.cases]
    organs = task_in(dataset)
    return make_episode(dataset, organs, names[:shots], names[shots : shots + 1], settings.plan, settings.space.levels)


def _iterate(settings: Settings, shots: int, steps: int, of_features: bool) -> dict[str, float]:
    """Run one meta-iteration of one kind with the largest number of shots and ``steps`` steps a task."""
    learner = settings.learner.model_copy(update={"steps": steps})
    features = settings.features.model_copy(update={"steps": steps})
    recipe = features_around(float(of_features), 0.0)
    tasks = settings.tasks.model_copy(update={"shots": (shots,)})
    meta = settings.meta.model_copy(update={"iterations": 1, "num_validation": 0, "warmup": 0.0})
    small = settings.model_copy(update={"learner": learner, "features": features, "phases": recipe, "tasks": tasks, "meta": meta})
    with tempfile.TemporaryDirectory(dir=Path(settings.cache).parent) as folder:
        run = MetaTraining(small, Path(folder) / "run", resume=False)
        run.run()
    done = steps if of_features else evaluations(learner)
    return {"seconds": run.at.seconds - run.at.waited, "evaluations": meta.batch * done}


def _adapt(settings: Settings, task: str, shots: int, steps: int) -> None:
    """Adapt the untrained supernet as validation does: two copies of the weights, and a switch to the discrete network."""
    episode = _load(settings, task, shots)
    runtime = choose_runtime(settings.device, settings.precision)
    net = build_network(settings.space, settings.seed).to(runtime.device)
    learner = settings.adapt.model_copy(update={"steps": steps})
    Solver(settings.space, settings.seed, learner, settings.plan, runtime).run(net, episode, np.random.default_rng(0))


def _predict(settings: Settings, task: str) -> None:
    """Segment a whole scan, window by window, with the discrete network of an untrained supernet."""
    episode = _load(settings, task, 1)
    runtime = choose_runtime(settings.device, settings.precision)
    learner = settings.adapt.model_copy(update={"steps": 0})
    net = build_network(settings.space, settings.seed).to(runtime.device)
    solve = Solver(settings.space, settings.seed, learner, settings.plan, runtime)
    adapted, _ = solve.run(net, episode, np.random.default_rng(0))
    scan = episode.query[0]
    predict_labels(adapted.net, scan.image, episode.plan, scan.truth.shape, runtime)


def evaluations(learner: LearnerSettings) -> int:
    """Return the number of forward and backward passes of one task: one a step, and one for each separate step of alpha.

    This holds for first-order meta-training without cross-fitting and without a switch to a discrete network.
    """
    return learner.steps + learner.extra_evaluations(learner.steps)


def expected_run(settings: Settings, stages: Sequence[Row]) -> list[Row]:
    """Return the expected hours of all meta-iterations without validation: extrapolated here, assumed for a GPU."""
    by_learner, by_features = (stage["seconds an evaluation"] for stage in stages if stage["evaluations"])
    f, m = settings.features, settings.meta
    share = 1.0 - share_of(settings.phases, "tasks")
    tasks = m.iterations * m.batch
    numbers = round(tasks * (1 - share)) * evaluations(settings.learner), round(tasks * share) * f.steps
    hours = (numbers[0] * by_learner + numbers[1] * by_features) / 3600
    side = round(settings.plan.view_voxels ** (1 / 3))
    strides = [(2, 2, 2)] * (settings.space.levels - 1)
    net = build_network(settings.space, settings.seed)
    forward = cost(net.body, (side,) * 3, strides)["multiply_adds"] * settings.learner.batch
    # a backward pass has twice as many multiply-adds as a forward pass; a step on features has its own number of views
    passes = 3 * forward
    # every episode of real scans reads and resamples its scans again, in a thread next to the training
    scans = tasks * (1 - settings.tasks.synthetic) * (sum(settings.tasks.shots) / len(settings.tasks.shots))
    each = [stage["seconds"] / (max(settings.tasks.shots) + 1) for stage in stages if stage["stage"].startswith(_LOADING)]
    loading = scans * sum(each) / max(len(each), 1) / 3600
    total = passes * (numbers[0] + numbers[1] * f.views / settings.learner.batch)
    gpu = total / ASSUMED_GPU / 3600
    weights = sum(p.numel() for p in net.parameters())
    lines = [
        ("forward and backward passes of the task learner", f"{numbers[0]:,}", "iterations x tasks x (steps + alpha steps)"),
        (
            "forward and backward passes for features",
            f"{numbers[1]:,}",
            f"{share:.0%} of the iterations x tasks x steps; after the commitment the discrete network counts like the supernet",
        ),
        ("million weights of the supernet", f"{weights / 1e6:.1f}", "counted"),
        ("billion multiply-adds a pass", f"{passes / 1e9:.0f}", f"counted, {settings.learner.batch} views of {side}^3 voxels"),
        (
            "hours on this machine",
            f"{max(hours, loading):.0f}",
            f"extrapolated from {by_learner:.2f} and {by_features:.2f} s a pass; loading runs at the same time",
        ),
        (
            "hours of loading",
            f"{loading:.0f}",
            f"{scans:,.0f} scans, read and resampled for every episode by one thread, extrapolated from the stages above",
        ),
        (
            "hours on one GPU",
            f"{max(gpu, loading):.1f}",
            f"ESTIMATE, not measured on a GPU: {gpu:.1f} for the passes at an assumed {ASSUMED_GPU / 1e12:.0f} x 10^12 multiply-adds "
            "a second in bfloat16, without the start of kernels; or the hours of loading, if these are more",
        ),
    ]
    return [{"quantity": quantity, "value": value, "how": how} for quantity, value, how in lines]


def _page(tables: dict[str, list[Row]], note: dict[str, Any], shots: int, dry: DryRun) -> str:
    reached = all(row["reached"] for row in tables["Memory and time by stage"])
    head = (
        "# Dry run of the full Medical Segmentation Decathlon\n\n"
        f"Written by `metanas-med study bench msd` with the settings of `configs/{dry.config}.yaml`. Code {note['code']}, "
        f"{note['device']}, {note['threads']} thread(s), torch {note['torch']}.\n\nPhantoms have the true shapes, channels and "
        f"labels of Task01 (four channels), Task03 and Task08. There are {dry.scans} scans of each, under as many names as "
        f"{shots} shots and a query need. Every episode has {shots} support scans, the most that the configuration draws; "
        f"tasks take {dry.steps} step(s). The next episode is loaded while one trains, as in the full run. Peaks are those of "
        "whole processes.\n\n"
        f"**Under {MEMORY_GOAL:.0f} GiB: {'reached' if reached else 'not reached'}** (highest peak "
        f"{max(row['peak GiB'] for row in tables['Memory and time by stage']):.2f} GiB).\n"
    )
    return head + "".join(f"\n## {title}\n\n{markdown_table(rows, digits=2)}" for title, rows in tables.items())
