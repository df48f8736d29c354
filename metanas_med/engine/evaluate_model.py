"""``evaluate``: an adapted model on the labelled scans of a data set, whole volumes in their own geometry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.cached import CachedDataset
from ..errors import CheckpointError, DataError
from ..tasks.organ import task_of
from .adapt import open_dataset
from .evaluate import evaluate_arrays
from .model import Model


def evaluate(
    model: Model | Path | str, dataset: CachedDataset | Path | str, out: Path | str, limit: int | None = None
) -> dict[str, Any]:
    """Return the summary of ``model`` on ``dataset`` after writing ``metrics.csv`` and ``summary.json`` to ``out``.

    Patients of the model's own support (named in its ``adaptation.json``) are left out and counted in the summary.
    """
    folder = None if isinstance(model, Model) else Path(model)
    loaded = model if isinstance(model, Model) else Model.load(model)
    data = dataset if isinstance(dataset, CachedDataset) else open_dataset(dataset)
    task = loaded.task
    if data.name != task.dataset:
        names = set(data.labels.values())
        if not set(task.names) <= names:
            raise DataError(f"{data.name} has organs {sorted(names)}, the model segments {list(task.names)}")
        task = task_of(data.name, data.labels, ",".join(task.names))
    support = _support(folder) if data.name == loaded.task.dataset else set()
    patients = {c.patient for c in data.cases if c.name in support}
    cases = [c for c in data.cases if c.patient not in patients][:limit]
    if not cases:
        raise DataError(f"{data.name}: no labelled scan is left beside the support scans")

    def scored() -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[float, float, float]]]:
        for case in cases:
            truth = loaded.label_values[task.remap(data.label(case.name))]
            yield case.name, truth, loaded.segment(data.image(case.name), case.spacing), case.spacing

    organs = {int(loaded.label_values[k]): name for k, name in enumerate(task.names, start=1)}
    return evaluate_arrays(
        scored(), organs, out, {"num_support_left_out": len(data.cases) - len(cases) if limit is None else len(support)}
    )


def _support(folder: Path | None) -> set[str]:
    note = folder / "adaptation.json" if folder else None
    if note is None or not note.exists():
        return set()
    try:
        return set(json.loads(note.read_text())["support"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{note} is damaged, and it names the support scans; restore it or adapt anew") from error
