"""The values of the page: Dice by method and budget, gains over other methods, and how good the expected Dice was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...report.statistics import Margin, paired_margin

OURS, OWN = "minutes", "default"
NUMBERS: Mapping[str, Any] = {
    "shots": int,
    "budget_seconds": float,
    "draw": int,
    "dice": float,
    "seconds": float,
    "num_query": int,
}


def typed(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the rows of the CSV with numbers in place of texts; ``scans``: Dice by query scan."""
    found = [{key: NUMBERS[key](value) if key in NUMBERS else value for key, value in row.items()} for row in rows]
    return [row | {"scans": tuple(float(v) for v in str(row["dice_by_scan"]).split())} for row in found]


@dataclass(frozen=True)
class Results:
    """The rows of all cells."""

    rows: Sequence[Mapping[str, Any]]

    @property
    def budgets(self) -> list[tuple[int, float]]:
        """Return (shots, seconds): from most scans first, then by time."""
        return sorted({(r["shots"], r["budget_seconds"]) for r in self.rows}, key=lambda pair: (-pair[0], pair[1]))

    @property
    def methods(self) -> list[str]:
        """Return the methods, in order of appearance."""
        return list(dict.fromkeys(r["method"] for r in self.rows))

    def of(self, method: str, shots: int, seconds: float, dataset: str = "") -> dict[tuple[str, int], Mapping[str, Any]]:
        """Return rows by data set and draw."""
        return {
            (r["dataset"], r["draw"]): r
            for r in self.rows
            if (r["method"], r["shots"], r["budget_seconds"]) == (method, shots, seconds) and dataset in ("", r["dataset"])
        }

    def datasets(self, shots: int, seconds: float) -> list[str]:
        """Return the data sets of a budget, in order of appearance."""
        rows = [r for r in self.rows if (r["shots"], r["budget_seconds"]) == (shots, seconds)]
        return list(dict.fromkeys(r["dataset"] for r in rows))

    def dice(self, method: str, shots: int, seconds: float, dataset: str = "") -> float | None:
        """Return the mean over data sets of the mean over draws; None where a data set of the budget is missing."""
        found = self.of(method, shots, seconds, dataset)
        names = [dataset] if dataset else self.datasets(shots, seconds)
        means = [[row["dice"] for (name, _), row in found.items() if name == each] for each in names]
        return float(np.mean([np.mean(values) for values in means])) if means and all(means) else None

    def gain(self, method: str, shots: int, seconds: float) -> Margin | None:
        """Return the Dice of ``adapt --minutes`` minus that of another method on the same supports and scans; None without any."""
        return margin_of(self.pairs(method, shots, seconds))

    def pairs(self, method: str, shots: int, seconds: float) -> list[tuple[str, int, np.ndarray]]:
        """Return data set, draw and differences (scans,) in Dice of ``adapt --minutes`` and another method."""
        ours, others = self.of(OURS, shots, seconds), self.of(method, shots, seconds)
        return [
            (dataset, draw, np.subtract(row["scans"], others[dataset, draw]["scans"]))
            for (dataset, draw), row in ours.items()
            if (dataset, draw) in others
        ]

    def chosen(self) -> list[Mapping[str, Any]]:
        """Return the rows of ``adapt --minutes`` whose choice differs from the default."""
        return [r for r in self.rows if r["method"] == OURS and r["chosen"] not in ("", "default")]

    def gain_of_choices(self) -> Margin | None:
        """Return the gain over the default for as long, where the choice differs from it."""
        chosen = {(r["dataset"], r["draw"], r["shots"], r["budget_seconds"]) for r in self.chosen()}
        found = [
            (f"{dataset} {shots} {seconds:g}", draw, gaps)
            for shots, seconds in self.budgets
            for dataset, draw, gaps in self.pairs(OWN, shots, seconds)
            if (dataset, draw, shots, seconds) in chosen
        ]
        return margin_of(found)

    def expected(self, shots: int, seconds: float) -> list[tuple[float, float, float, float]]:
        """Return (expected, low, high, measured) Dice of the cells of ``adapt --minutes`` that give an interval."""
        rows = self.of(OURS, shots, seconds).values()
        keys = ("expected", "expected_low", "expected_high", "dice")
        return [(a, b, c, d) for row in rows if row["expected_low"] != "" for a, b, c, d in [[float(row[key]) for key in keys]]]


def margin_of(pairs: Sequence[tuple[str, int, np.ndarray]]) -> Margin | None:
    """Return the mean difference over data sets, with the interval of resampled draws and scans; None without pairs."""
    by_dataset: dict[str, list[np.ndarray]] = {}
    for dataset, _, gaps in pairs:
        by_dataset.setdefault(dataset, []).append(gaps)
    if not by_dataset:
        return None
    return paired_margin({name: np.array(gaps)[None] for name, gaps in by_dataset.items()})
