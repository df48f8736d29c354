"""The values of the page: mean Dice of a start and its gain over fresh weights, from the rows of ``start.csv``.

A row is compared with the row of fresh weights of the same width, data set, draw and number of steps. Draws and seeds are averaged
within a data set, data sets within a group, and groups weigh equally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...report.statistics import Margin, paired_margin
from .jobs import FRESH

Row = Mapping[str, Any]


def typed(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the rows of the CSV with numbers in place of texts."""
    kinds: dict[str, Any] = dict.fromkeys(
        ("final", "draw", "steps", "shots", "num_query", "num_sets", "base_width", "parameters"), int
    )
    kinds |= dict.fromkeys(("dice", "seconds", "train_seconds"), float) | {"iterations": int}
    found = [{key: kinds[key](value) if key in kinds else value for key, value in row.items()} for row in rows]
    # processor time does not depend on what else the machine did; a run that another command made has none
    return [row | {"core_seconds": float(row["train_processor_seconds"] or row["train_seconds"])} for row in found]


@dataclass(frozen=True)
class Results:
    """The rows of the development folds, or of the final ones."""

    rows: Sequence[Row]

    @property
    def recipes(self) -> list[str]:
        """Return the names of the recipes, in order of appearance."""
        return list(dict.fromkeys(r["recipe"] for r in self.rows if r["recipe"] != FRESH))

    @property
    def steps(self) -> list[int]:
        return sorted({r["steps"] for r in self.rows})

    @property
    def groups(self) -> list[str]:
        """Return the groups of the data sets, in order of appearance."""
        return list(dict.fromkeys(r["group"] for r in self.rows))

    @property
    def widths(self) -> list[int]:
        return sorted({r["base_width"] for r in self.rows})

    def of(self, recipe: str, steps: int | None = None, width: int | None = None) -> list[Row]:
        """Return the rows of a recipe; ``width`` distinguishes the rows of fresh weights."""
        return [
            r for r in self.rows if r["recipe"] == recipe and steps in (None, r["steps"]) and width in (None, r["base_width"])
        ]

    def is_complete(self, rows: Sequence[Row]) -> bool:
        """Return whether the ``rows`` of one start and number of steps cover every data set with the same draws, for each seed."""
        datasets = {r["dataset"] for r in self.rows}
        for seed in {r["seed"] for r in rows}:
            found = {(r["dataset"], r["draw"]) for r in rows if r["seed"] == seed}
            if found != {(dataset, draw) for dataset in datasets for draw in {draw for _, draw in found}}:
                return False
        return bool(rows)

    def dice(self, recipe: str, steps: int, width: int | None = None) -> float | None:
        """Return the mean Dice over groups; None where cells are missing."""
        rows = self.of(recipe, steps, width)
        return _over_groups(_by_dataset(rows, [r["dice"] for r in rows])) if self.is_complete(rows) else None

    def gains(self, recipe: str, steps: int) -> dict[tuple[str, str], float] | None:
        """Return the gain over fresh weights by (group, data set); None where cells are missing."""
        rows = self.of(recipe, steps)
        if not self.is_complete(rows):
            return None
        fresh = self.of(FRESH, steps, rows[0]["base_width"])
        base = {(r["dataset"], r["draw"]): r["dice"] for r in fresh}
        if any((r["dataset"], r["draw"]) not in base for r in rows):
            return None
        return _by_dataset(rows, [r["dice"] - base[r["dataset"], r["draw"]] for r in rows])

    def gain(self, recipe: str, steps: int) -> Margin | None:
        """Return the gain over fresh weights in the mean over groups; its interval resamples data sets."""
        found = self.gains(recipe, steps)
        if found is None:
            return None
        sizes = {group: sum(g == group for g, _ in found) for group, _ in found}
        # with these weights the plain mean over data sets is the mean over groups
        values = [value * len(found) / len(sizes) / sizes[group] for (group, _), value in found.items()]
        return paired_margin({"": np.array(values)[None, :, None]})

    def group_gain(self, recipe: str, steps: int, group: str) -> float | None:
        """Return the mean gain over the data sets of a group; None where cells are missing."""
        found = self.gains(recipe, steps)
        return None if found is None else float(np.mean([value for (g, _), value in found.items() if g == group]))

    def fact(self, recipe: str, key: str) -> float:
        """Return a number of a recipe's trainings, in the mean over seeds and folds."""
        return float(np.mean(self.facts(recipe, key)))

    def facts(self, recipe: str, key: str) -> list[float]:
        """Return a number of each of a recipe's trainings, sorted."""
        return sorted({(r["fold"], r["seed"]): float(r[key]) for r in self.of(recipe)}.values())

    def seeds(self, recipe: str) -> int:
        return len({r["seed"] for r in self.of(recipe)})


def _by_dataset(rows: Sequence[Row], values: Sequence[float]) -> dict[tuple[str, str], float]:
    """Return the means of ``values``, one a row, by (group, data set)."""
    found: dict[tuple[str, str], list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        found.setdefault((row["group"], row["dataset"]), []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _over_groups(by_dataset: Mapping[tuple[str, str], float]) -> float:
    groups = {group for group, _ in by_dataset}
    return float(np.mean([np.mean([value for (g, _), value in by_dataset.items() if g == group]) for group in groups]))
