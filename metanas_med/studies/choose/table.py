"""The rows of the grid as arrays: tasks (data set and draw) by configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...search.choice import best_in_hindsight

Array = NDArray[np.float64]
#: begin the names of the columns of scores, and of their cost
SCORE, SECONDS = "score ", "seconds "
DEFAULT = "default"


@dataclass(frozen=True)
class Interval:
    """A mean over data sets, with the 95 % interval of resampled data sets and draws."""

    mean: float
    low: float
    high: float

    def text(self, sign: str = "+") -> str:
        """Return mean and interval as a table shows them; ``sign``: "" for values that are never below zero."""
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


@dataclass(frozen=True)
class Table:
    """Arrays (tasks, configurations) of the tasks that have all configurations; the default is the first column."""

    tasks: tuple[tuple[str, int], ...]  #: data set and draw
    configurations: tuple[str, ...]
    picks: tuple[Mapping[str, str], ...]
    first: Array  #: Dice of the first run
    second: Array  #: Dice of the second run
    step_seconds: Array  #: time of a step, in any unit
    columns: Mapping[str, Array]  #: other numbers by column; nan where a cell has none
    scans: Mapping[tuple[int, int], tuple[float, ...]]  #: Dice of the score ``folds`` by left-out scan, by task and configuration
    incomplete: tuple[str, ...]  #: tasks that lack a configuration

    @property
    def dice(self) -> Array:
        """Return the mean of both runs."""
        return (self.first + self.second) / 2

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(dataset for dataset, _ in self.tasks))

    @cached_property
    def members(self) -> tuple[NDArray[np.intp], ...]:
        """Return the tasks of each data set."""
        names = np.array([dataset for dataset, _ in self.tasks])
        return tuple(np.flatnonzero(names == name) for name in self.datasets)

    @property
    def gains(self) -> Array:
        """Return Dice minus that of the default."""
        return self.dice - self.dice[:, :1]

    @property
    def best(self) -> Array:
        """Return the Dice (tasks,) of the best configuration in hindsight, corrected for noise by the second run."""
        return best_in_hindsight(self.first, self.second)

    @property
    def relative_seconds(self) -> Array:
        """Return the time of a step by configuration, in the default's: the median over tasks."""
        return np.median(self.step_seconds / self.step_seconds[:, :1], axis=0)

    @property
    def scores(self) -> dict[str, Array]:
        """Return the scores of cells by name, without those that are nan in a whole task."""
        found = {name.removeprefix(SCORE): values for name, values in self.columns.items() if name.startswith(SCORE)}
        return {name: values for name, values in found.items() if not np.isnan(values).all(1).any()}

    def without(self, dataset: str) -> Table:
        """Return the table without a data set."""
        kept = [number for number, (name, _) in enumerate(self.tasks) if name != dataset]
        return Table(
            tuple(self.tasks[n] for n in kept),
            self.configurations,
            self.picks,
            self.first[kept],
            self.second[kept],
            self.step_seconds[kept],
            {name: values[kept] for name, values in self.columns.items()},
            {
                (new, c): self.scans[old, c]
                for new, old in enumerate(kept)
                for c in range(len(self.picks))
                if (old, c) in self.scans
            },
            self.incomplete,
        )


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the arrays of the rows of ``scores.csv``; DataError where no task has all configurations, or one of two or more."""
    cells = {((str(r["dataset"]), int(r["draw"])), str(r["configuration"])): r for r in rows}
    names = list(dict.fromkeys(name for _, name in cells))
    if DEFAULT not in names or len(names) < 2:
        raise DataError("scores: expected cells of the default and of another configuration. Run the study first.")
    names.sort(key=lambda name: name != DEFAULT)
    every = sorted({task for task, _ in cells})
    tasks = [task for task in every if all((task, name) in cells for name in names)]
    if not tasks:
        raise DataError(f"scores: no data set and draw has cells of all {len(names)} configurations. Run the missing cells.")

    def column(key: str) -> Array:
        return np.array([[_number(cells[task, name].get(key)) for name in names] for task in tasks])

    numbers = [key for key in rows[0] if key.startswith((SCORE, SECONDS)) or key in ("multiply_adds", "parameters")]
    scans = {
        (t, c): tuple(float(value) for value in str(cells[task, name].get("scans_folds", "")).split())
        for t, task in enumerate(tasks)
        for c, name in enumerate(names)
    }
    return Table(
        tuple(tasks),
        tuple(names),
        tuple(json.loads(cells[tasks[0], name]["picks"]) for name in names),
        column("dice_first"),
        column("dice_second"),
        # at equal time, numbers of steps are those of paces that were measured on idle cores; cells may share theirs
        1 / column("steps") if len(set(column("steps")[0])) > 1 else column("step_seconds"),
        {key: column(key) for key in numbers},
        {place: values for place, values in scans.items() if values},
        tuple(f"{dataset}, draw {draw}" for dataset, draw in every if (dataset, draw) not in tasks),
    )


def _number(value: Any) -> float:
    return float(value) if value not in ("", None) else float("nan")


def over_tasks(table: Table, values: Array, resamples: int = 4000) -> Interval:
    """Return the mean over data sets of ``values`` (tasks,), and its interval.

    Data sets are resampled, and draws within them (a bootstrap of two stages; Davison and Hinkley 1997, section 3.8). Tasks whose
    value is nan are left out; a data set without a value is left out as well.
    """
    rng = np.random.default_rng(0)
    groups = [found for members in table.members if len(found := values[members][~np.isnan(values[members])])]
    if not groups:
        return Interval(float("nan"), float("nan"), float("nan"))
    # by data set, the means of resampled draws: (resamples, data sets of a resample)
    drawn = rng.integers(len(groups), size=(resamples, len(groups)))
    means = np.zeros(drawn.shape)
    for number, found in enumerate(groups):
        places = drawn == number
        means[places] = found[rng.integers(len(found), size=(int(places.sum()), len(found)))].mean(1)
    low, high = np.percentile(means.mean(1), (2.5, 97.5))
    return Interval(float(np.mean([found.mean() for found in groups])), float(low), float(high))
