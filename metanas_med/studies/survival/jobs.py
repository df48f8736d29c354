"""The jobs that are killed: their commands, and what must be equal at their ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...engine.run_folder import has_run
from ...files import csv_path, read_csv

#: the phantoms that the jobs use, and the one that is held out
USED = ("Phantom01_Bean", "Phantom05_ShellCore", "Phantom06_Pair")
HELD_OUT = "Phantom06_Pair"
#: columns and keys that depend on the clock
_CLOCK = {"seconds", "data_wait_share", "check_seconds"}

#: small networks and few steps: a job takes seconds
TINY: dict[str, Any] = {
    "seed": 1,
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
    "space": {"base_width": 4, "max_width": 8, "levels": 3, "nodes": [1], "coarse_from": 2},
    "plan": {"view_voxels": 400, "adapt_voxels": 0},
    "learner": {"steps": 2, "batch": 1, "alpha_every": 1},
    "adapt": {"steps": 12, "batch": 1},
    "tasks": {"shots": [2], "hold_out": [HELD_OUT]},
    "meta": {"iterations": 12, "batch": 1, "validate_every": 4, "num_validation": 1, "checkpoint_every": 3, "commit": 0.7},
    "features": {"voxels": 40, "views": 2, "alpha_every": 3},
    "phases": [
        {"share": 0.3, "mix": {"features": 1}},
        {"share": 0.4, "mix": {"tasks": 1}},
        {"share": 0.3, "mix": {"features": 1}},
    ],
}


@dataclass(frozen=True)
class Place:
    """Where the study keeps what its jobs share."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def start(self) -> Path:
        return self.root / "start"

    @property
    def config(self) -> Path:
        return self.root / "tiny.yaml"


@dataclass(frozen=True)
class Job:
    """A kind of job. ``command`` and ``result`` take the job's own folder."""

    name: str
    command: Callable[[Place, Path], list[str]]  #: arguments of ``metanas-med``, for a first start or to go on
    result: Callable[[Path], dict[str, str]]  #: hashes of what must be equal at the end
    only_writes: bool = False  #: all kills fall on moments of writing


def _meta_train(every: int) -> Callable[[Place, Path], list[str]]:
    def command(place: Place, folder: Path) -> list[str]:
        resume = ["--resume"] if has_run(folder / "run") else []
        given = ["--config", str(place.config), "--cache", str(place.cache), "--meta.checkpoint_every", str(every)]
        return ["meta-train", *given, "--out", str(folder / "run"), *resume]

    return command


def _prepare(place: Place, folder: Path) -> list[str]:
    return ["prepare", *(str(place.data / name) for name in USED), "--cache", str(folder / "cache"), "--workers", "1"]


def _adapt(place: Place, folder: Path) -> list[str]:
    given = ["--organ", "left,right", "--shots", "2", "--evaluate", "1", "--device", "cpu"]
    return ["adapt", str(place.start), str(place.cache / f"{HELD_OUT}.h5"), "--out", str(folder / "model"), *given]


def _grid(place: Place, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "grid.yaml"
    run = {**TINY, "cache": str(folder / "cache"), "meta": {**TINY["meta"], "iterations": 4, "num_validation": 0}}
    tree = {
        "data": str(place.data),
        "out": str(folder / "out"),
        "launcher": "serial",
        "groups": [{"name": "pair", "hold_out": [HELD_OUT], "data": [{"dataset": HELD_OUT}]}],
        "methods": ["metanas", "metanas-frozen"],
        "each_organ": [],
        "shots": [2],
        "steps": [20, 0],
        "curve_steps": [3],
        "matched_steps": [],
        "num_query": 1,
        "curve_query": 1,
        "draws": 1,
        "seeds": 1,
        "run": run,
        "plan": {"view_voxels": 400},
    }
    if not config.exists():
        config.write_text(yaml.safe_dump(tree))
    return ["study", "benchmark", "--config", str(config)]


def _tensors(path: Path) -> str:
    """Return the hash of the tensors of a safetensors file."""
    from safetensors.numpy import load_file

    found = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        found.update(name.encode() + value.tobytes())
    return found.hexdigest()[:16]


def _rows(path: Path) -> str:
    """Return the hash of a table without what depends on the clock: its columns, and trainings that last a time."""
    rows = [{k: v for k, v in row.items() if k not in _CLOCK} for row in read_csv(csv_path(path)) if not row.get("budget")]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _of_training(folder: Path) -> dict[str, str]:
    run = folder / "run"
    states = {name: _tensors(run / f"{name}.safetensors") for name in ("last", "best")}
    return {**states, "rows": _rows(run / "iteration.csv")}


def _of_cache(folder: Path) -> dict[str, str]:
    return {path.name: _file(path) for path in sorted((folder / "cache").glob("*.h5"))}


def _of_adapt(folder: Path) -> dict[str, str]:
    note = json.loads((folder / "model" / "adaptation.json").read_text())
    report = {key: value for key, value in note["report"].items() if key not in _CLOCK}
    kept = {key: note[key] for key in ("support", "organs", "plan", "scored", "dice_after")}
    text = json.dumps([report, kept], sort_keys=True)
    return {"model": _tensors(folder / "model" / "model.safetensors"), "note": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _of_grid(folder: Path) -> dict[str, str]:
    states = {str(p.relative_to(folder)): _tensors(p) for p in sorted((folder / "out" / "meta").glob("*/*/last.safetensors"))}
    return {**states, "rows": _rows(folder / "out" / "results.csv")}


JOBS = {
    job.name: job
    for job in (
        Job("meta-training", _meta_train(3), _of_training),
        Job("checkpoints", _meta_train(1), _of_training, only_writes=True),
        Job("cache", _prepare, _of_cache),
        Job("adapt", _adapt, _of_adapt),
        Job("grid", _grid, _of_grid),
    )
}
