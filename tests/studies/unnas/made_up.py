"""Settings and artificial rows that the tests of the study share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metanas_med.data.cached import CachedDataset
from metanas_med.engine.settings import load_settings
from metanas_med.resources import find_resource
from metanas_med.studies.unnas.architectures import draw_architectures
from metanas_med.studies.unnas.cells import grid
from metanas_med.studies.unnas.run_cell import COLUMNS, split
from metanas_med.studies.unnas.settings import UnnasSettings
from metanas_med.studies.unnas.tasks import open_pretext

Make = Callable[..., UnnasSettings]


def shipped() -> UnnasSettings:
    return load_settings(find_resource("configs", "unnas"), (), UnnasSettings)


def pretext_of(settings: UnnasSettings, dataset: CachedDataset, name: str, seed: int = 0) -> Any:
    train, query = split(dataset, settings.num_query)
    return open_pretext(dataset, train, query, name, settings.model_copy(update={"seed": seed}), 3)


def write_config(settings: UnnasSettings, path: Path) -> str:
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return str(path)


def made_up(settings: UnnasSettings, missing: int = 0) -> list[dict[str, Any]]:
    """Rows whose label scores follow a hidden quality; rotation follows it as well, random labels follow size alone."""
    random, rows = np.random.default_rng(0), []
    qualities = random.permutation(settings.num_architectures) / settings.num_architectures
    for cell in grid(settings)[: len(grid(settings)) - missing]:
        a = draw_architectures(settings)[cell.number]
        quality = qualities[cell.number]
        size = float(np.log10(a.multiply_adds))
        noise = 0.002 * random.normal()
        dice = {"labels": 0.5 + 0.3 * quality + noise, "rotation": 0.2 + 0.5 * quality}.get(cell.task, 0.25)
        rows.append(
            {
                **dict.fromkeys(COLUMNS, ""),
                "architecture": cell.number,
                "hash": cell.hash,
                **{k: getattr(a, k) for k in ("levels", "base_width", "parameters", "multiply_adds", "receptive_field")},
                "dataset": "Made_Up",
                "task": cell.task,
                "seed": cell.seed,
                "dice": dice,
                "train_dice": 1.0 if cell.task == "random-labels" else "",
                "train_loss": 2 - size / 10 if cell.task == "random-labels" else 0.5,
                "steps": 100,
                "cpu_seconds": 61.0,
                "wall_seconds": 70.0,
                "num_train": 18,
                "num_query": 9,
                "precision": "float32",
                "machine": "a CPU",
                "code": "0.1.0",
            }
        )
    return rows
