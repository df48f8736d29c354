"""A made-up table of results, and a study of two tiny recipes on phantoms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.studies.start.jobs import COLUMNS
from metanas_med.studies.start.settings import StartSettings

SETS = {"One": "lung", "Two": "lung", "Three": "left_knee", "Four": "left_knee"}
SMALL = {
    "device": "cpu",
    "precision": "float32",
    "space": {"base_width": 2, "max_width": 4, "levels": 3, "nodes": [1], "coarse_from": 2},
    "plan": {"view_voxels": 400},
    "learner": {"steps": 1, "batch": 1, "ridge_voxels": 60},
    "features": {"voxels": 40, "views": 2},
    "tasks": {"synthetic": 0.0, "recast": 0.0, "shots": [2]},
}


def made_up(recipe: str, gain: dict[int, float], **changes: Any) -> list[dict[str, str]]:
    """Return rows of a start whose Dice is ``gain[steps]`` above 0.5, and a little more in the second data set of a group."""
    rows = []
    for number, (dataset, group) in enumerate(SETS.items()):
        for steps, more in gain.items():
            row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"recipe": recipe, "fold": "a", "final": 0, "dataset": dataset}
            row |= {"group": group, "draw": 0, "steps": steps, "dice": round(0.5 + more + 0.01 * (number % 2), 4), "seconds": 9.0}
            row |= {"seed": "" if recipe == "fresh" else 0, "shots": 5, "num_query": 4, "base_width": 8, "parameters": 1000}
            row |= {"train_seconds": 420.0, "iterations": 530, "num_sets": 17, "machine": "a processor", "code": "c1"}
            rows.append({key: str(value) for key, value in {**row, **changes}.items()})
    return rows


@pytest.fixture
def study(phantom_cache: Path, tmp_path: Path) -> Callable[..., StartSettings]:
    """``study(key=value)``: two recipes of small networks that train for a moment, one fold, two steps at most."""

    def make(**changes: Any) -> StartSettings:
        recipes = {
            "plain": {"about": "plain", "overrides": SMALL, "series": ["time"]},
            "few": {"about": "one data set", "overrides": SMALL, "datasets": ["Phantom01_Bean", "Phantom06_Pair"]},
        }
        values: dict[str, Any] = {
            "cache": str(phantom_cache),
            "out": str(tmp_path / "out"),
            "launcher": "serial",
            "train_seconds": 0.01,
            "paces": {"features": 0.002, "tasks": 0.002, "synthesis": 0.002},
            "steps": [0, 1],
            "draws": 1,
            "shots": 2,
            "num_query": 1,
            "folds": {
                "a": {"hold_out": ["Phantom06_Pair"], "datasets": ["Phantom06_Pair"]},
                "last": {"hold_out": ["Phantom01_Bean"], "datasets": ["Phantom01_Bean"], "final": True},
            },
            "recipes": recipes,
            "final": ["plain"],
        }
        return StartSettings.model_validate({**values, **changes})

    return make
