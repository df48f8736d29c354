"""A grid of tiny configurations on one phantom, and made-up rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.studies.choose.settings import ChooseSettings
from metanas_med.studies.choose.work import COLUMNS

WIDE = {"pipeline/view_voxels": "65536"}


@pytest.fixture
def study(phantom_cache: Path, tiny_run: Path, tmp_path: Path) -> Callable[..., ChooseSettings]:
    """``study(key=value)``: two configurations, one data set, one draw of two scans, one query scan, two steps."""

    def make(**changes: Any) -> ChooseSettings:
        values: dict[str, Any] = {
            "start": str(tiny_run),
            "cache": str(phantom_cache),
            "out": str(tmp_path / "out"),
            "launcher": "serial",
            "datasets": ["Phantom06_Pair"],
            "configurations": [{}, {"pipeline/batch": 2}],
            "draws": 1,
            "shots": 2,
            "num_query": 1,
            "steps": 2,
            "fold_steps": 1,
            "equal_time": False,
        }
        return ChooseSettings.model_validate({**values, **changes})

    return make


def made_up(truth: Mapping[str, Mapping[str, float]], noise: float = 0.0, draws: int = 3, **scores: Any) -> list[dict[str, str]]:
    """Return rows of a grid: ``truth`` is Dice by data set and configuration; ``scores`` are functions of data set and name."""
    rng, rows = np.random.default_rng(0), []
    for dataset, dice in truth.items():
        for draw in range(draws):
            for number, (name, value) in enumerate(dice.items()):
                picks = {} if name == "default" else {"pipeline/batch": name}
                row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"dataset": dataset, "group": dataset, "draw": draw}
                row |= {"configuration": name, "picks": json.dumps(picks), "step_seconds": 1.0 + number, "steps": 30, "shots": 5}
                row |= {"dice_first": value + noise * rng.normal(), "dice_second": value + noise * rng.normal()}
                row |= {"multiply_adds": 100 - number, "parameters": 10, "num_query": 8, "checkpoint": "c1", "code": "v1"}
                for score, of in scores.items():
                    row |= {f"score {score}": of(dataset, name), f"seconds {score}": 2.0}
                rows.append({key: str(value) for key, value in row.items()})
    return rows
