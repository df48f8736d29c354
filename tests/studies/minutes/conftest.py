"""A study of tiny networks on one phantom, and made-up rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from metanas_med.studies.minutes.settings import MinutesStudySettings
from metanas_med.studies.minutes.work import COLUMNS


@pytest.fixture
def study(phantom_cache: Path, tiny_run: Path, tmp_path: Path) -> Callable[..., MinutesStudySettings]:
    """``study(key=value)``: one data set, one draw of two scans, one query scan, budgets of seconds."""

    def make(**changes: Any) -> MinutesStudySettings:
        values: dict[str, Any] = {
            "start": str(tiny_run),
            "joint": str(tiny_run),
            "cache": str(phantom_cache),
            "out": str(tmp_path / "out"),
            "datasets": ["Phantom06_Pair"],
            "methods": ["minutes", "fresh"],
            "draws": 1,
            "shots": 2,
            "num_query": 1,
            "budgets": [3],
            "one_scan_budgets": [],
            "long_budgets": [],
            "threads": 1,
            "search": {"workers": 1},
            "nnunet": str(tmp_path / "none.csv"),
        }
        return MinutesStudySettings.model_validate({**values, **changes})

    return make


def made_up(
    dice: Mapping[str, float], seconds: float = 60, datasets: str = "AB", draws: int = 2, **more: Any
) -> list[dict[str, str]]:
    """Return rows of a budget from five scans: ``dice`` by method, the same in both query scans and all draws."""
    rows = []
    for dataset in datasets:
        for draw in range(draws):
            for method, value in dice.items():
                row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
                    "dataset": dataset,
                    "method": method,
                    "draw": draw,
                    "shots": 5,
                }
                row |= {
                    "budget_seconds": f"{seconds:g}",
                    "dice": value,
                    "dice_by_scan": f"{value} {value}",
                    "seconds": seconds + 1,
                }
                row |= {"num_query": 2, "chosen": "default" if method == "minutes" else "", "support_hash": f"{dataset}{draw}"}
                rows.append({key: str(v) for key, v in {**row, **more}.items()})
    return rows
