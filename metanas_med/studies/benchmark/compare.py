"""Which rows of the results are compared: same organs, draws and cases, and equal steps, gradient evaluations or seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import read_csv
from ...report.statistics import Margin, paired_margin
from .cells import REFERENCE_STEPS, Cell
from .methods import METHODS
from .settings import BenchmarkSettings

Row = dict[str, Any]
Key = tuple[str, str]  #: data set, organ
OURS = "metanas"

_INTS = ("shots", "steps", "draw", "seed", "development", "gradient_evaluations")
_FLOATS = ("dice", "nsd", "hd95_mm", "seconds", "parameters", "multiply_adds")


def read_results(path: Path) -> list[Row]:
    """Return the rows of ``results.csv`` with numbers as numbers; unknown ones are NaN."""
    rows: list[Row] = [*read_csv(path)]
    for row in rows:
        row.update({key: int(row[key]) for key in _INTS} | {key: float(row[key] or "nan") for key in _FLOATS})
    return rows


def done_of(cells: Iterable[Cell], rows: Iterable[Row]) -> set[Cell]:
    """Return the ``cells`` that have rows."""
    there = {place_of(row) for row in rows}
    return {cell for cell in cells if cell.place in there}


def place_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the `Cell.place` of a row's cell.

    The steps of a method with a time budget are measured, so they are no part of it.
    """
    steps = "0" if row["budget"] else str(row["steps"])
    return (*(str(row[key]) for key in ("held_out", "dataset", "target", "method", "shots", "budget", "draw", "seed")), steps)


def whole(rows: Iterable[Row], method: str, settings: BenchmarkSettings) -> bool:
    """Return whether the ``rows`` of a method have every test data set of ``settings``, and all draws and seeds of each organ."""
    line = METHODS[method]
    draws, seeds = 1 if line.one_draw else settings.draws, settings.seeds if line.several_seeds else 1
    found: dict[Key, set[tuple[int, int]]] = defaultdict(set)
    for r in rows:
        found[r["dataset"], r["organ"]].add((r["draw"], r["seed"]))
    wanted = {(draw, seed) for draw in range(draws) for seed in range(seeds)}
    test = {data.dataset for group in settings.groups if not group.development for data in group.data}
    return {dataset for dataset, _ in found} == test and all(there >= wanted for there in found.values())


def mean(rows: Sequence[Row], key: str) -> float:
    """Return the mean of a column."""
    return float(np.mean([r[key] for r in rows]))


def cell_mean(rows: Sequence[Row], key: str) -> float:
    """Return the mean over cells of a column that describes a cell.

    A mean over rows would weigh cells by their number of organs.
    """
    return float(np.mean(list({place_of(r): r[key] for r in rows}.values())))


def organ_name(key: Key, keys: Iterable[Key]) -> str:
    """Return the name of an organ in tables and figures: with its data set, where ``keys`` has several."""
    dataset, organ = key
    return f"{dataset.split('_')[0]} {organ}" if len({d for d, _ in keys}) > 1 else organ


def devices(rows: Iterable[Row]) -> str:
    """Return the kinds of device that ``rows`` were made on, in words."""
    return ", ".join(sorted({r["device"] for r in rows}))


def at(rows: Iterable[Row], method: str, steps: int) -> list[Row]:
    """Return the rows of a method at ``steps``; of a method with a time budget, the rows of that budget."""
    timed = METHODS[method].timed
    return [
        r for r in rows if r["method"] == method and (bool(r["budget"]) if timed else not r["budget"] and r["steps"] == steps)
    ]


def matched(rows: Sequence[Row], method: str, steps: int, whose: str = OURS) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return the rows of ``whose`` (ours) at ``steps`` and the rows of ``method`` to compare, by what is equal.

    Empty without such cells. Equal gradient evaluations: the fewest steps with at least as many as ours, for each data set.
    Equal seconds: the cells that had the time of one adaptation of ours on the same kind of device. A method with a time
    budget of its own is listed as ``its own time`` alone.
    """
    ours = at(rows, whose, steps)
    if METHODS[method].timed:
        return {name: (ours, []) for name in ("equal steps", "equal gradient evaluations", "equal seconds")} | {
            "its own time": (ours, at(rows, method, steps))
        }
    return {
        "equal steps": (ours, at(rows, method, steps)),
        "equal gradient evaluations": (ours, _no_fewer_gradients(rows, ours, method)),
        "equal seconds": same_devices(ours, [r for r in rows if r["method"] == method and r["budget"] == "x1"]),
        "its own time": (ours, []),
    }


def same_devices(ours: Sequence[Row], other: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of both whose draws ran on the same kind of device: seconds of a GPU and of a CPU cannot be compared."""

    def place(row: Row) -> tuple[str, str, int, str]:
        return row["dataset"], row["organ"], row["draw"], row["device"]

    both = {place(r) for r in ours} & {place(r) for r in other}
    return [r for r in ours if place(r) in both], [r for r in other if place(r) in both]


def _no_fewer_gradients(rows: Sequence[Row], ours: Sequence[Row], method: str) -> list[Row]:
    found: list[Row] = []
    for dataset in sorted({r["dataset"] for r in ours}):
        mine = [r for r in ours if r["dataset"] == dataset]
        least, cases = mean(mine, "gradient_evaluations"), {r["case"] for r in mine}
        others = [r for r in rows if r["dataset"] == dataset and r["method"] == method and not r["budget"]]
        for number in sorted({r["steps"] for r in others}):
            these = [r for r in others if r["steps"] == number]
            if {r["case"] for r in these} == cases and mean(these, "gradient_evaluations") >= least:
                found += these
                break
    return found


def by_organ(rows: Iterable[Row]) -> dict[Key, dict[tuple[int, str], float]]:
    """Return Dice by organ and (draw, case), the mean over seeds."""
    found: dict[Key, dict[tuple[int, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        found[r["dataset"], r["organ"]][r["draw"], r["case"]].append(r["dice"])
    return {key: {place: float(np.mean(v)) for place, v in places.items()} for key, places in found.items()}


def organ_means(rows: Iterable[Row]) -> dict[Key, float]:
    """Return the mean Dice by organ."""
    return {key: float(np.mean(list(places.values()))) for key, places in by_organ(rows).items()}


def mean_of_organs(rows: Iterable[Row]) -> float:
    """Return the mean Dice over organs."""
    return float(np.mean(list(organ_means(rows).values())))


def beside_ours(rows: Sequence[Row], mine: Sequence[Row]) -> bool:
    """Return whether a mean over organs of ``mine`` has the same organs, draws, cases and seeds as ours.

    ``mine`` are the rows of one method and length. Ours (among ``rows``) is taken at the same number of steps. Where it has
    no such rows, or ``mine`` has a time budget, it is taken at ``REFERENCE_STEPS``. A method with one seed by design needs no
    other seeds.
    """
    several = bool(mine) and METHODS[mine[0]["method"]].several_seeds

    def places(some: Iterable[Row]) -> set[tuple[str, str, int, str, int]]:
        return {(r["dataset"], r["organ"], r["draw"], r["case"], r["seed"] if several else 0) for r in some}

    ours = at(rows, OURS, mine[0]["steps"]) if mine and not mine[0]["budget"] else []
    return bool(mine) and places(mine) == places(ours or at(rows, OURS, REFERENCE_STEPS))


def same_seeds(ours: Sequence[Row], other: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of both with the draws and seeds that both have, where both start from meta-trained states.

    A method with one seed, by design or so far, is compared with our state of that seed: the difference between two
    meta-trainings is not part of a margin.
    """
    if not all(METHODS[r["method"]].pretraining for r in (*ours, *other)):
        return list(ours), list(other)

    def place(row: Row) -> tuple[str, str, int, int]:
        return row["dataset"], row["organ"], row["draw"], row["seed"]

    both = {place(r) for r in ours} & {place(r) for r in other}
    return [r for r in ours if place(r) in both], [r for r in other if place(r) in both]


def difference(ours: Sequence[Row], other: Sequence[Row], level: float = 0.95) -> Margin | None:
    """Return the margin over the organs, draws, cases and seeds that both have; None without any. ``level``: of the interval."""
    a, b = (by_organ(rows) for rows in same_seeds(ours, other))
    arrays: dict[str, list[np.ndarray]] = defaultdict(list)
    drawn = _drawn_together(ours)
    for dataset in sorted({dataset for dataset, _ in set(a) & set(b)}):
        organs = sorted(organ for d, organ in set(a) & set(b) if d == dataset)
        places = set.intersection(*(set(found[dataset, organ]) for found in (a, b) for organ in organs))
        cases = sorted({case for _, case in places})
        # a draw counts where all of its cases are there: an unfinished grid has complete cells only
        draws = [draw for draw in sorted({draw for draw, _ in places}) if all((draw, case) in places for case in cases)]
        if draws and cases:
            # images of the same patients with the same supports are resampled together
            arrays[f"{drawn[dataset]} {draws} {cases}"].append(
                np.array([[[a[dataset, o][d, c] - b[dataset, o][d, c] for c in cases] for d in draws] for o in organs])
            )
    parts = {name: np.concatenate(same) for name, same in arrays.items()}
    return paired_margin(parts, level=level) if parts else None


def _drawn_together(rows: Iterable[Row]) -> dict[str, str]:
    """Return a name for each data set, shared by data sets with the same supports and cases: their draws are not independent."""
    places: dict[str, set[tuple[int, str, str]]] = defaultdict(set)
    for r in rows:
        places[r["dataset"]].add((r["draw"], r.get("support_hash") or r["dataset"], r["case"]))
    first: dict[frozenset, str] = {}
    return {dataset: first.setdefault(frozenset(places[dataset]), dataset) for dataset in sorted(places)}


def shared_cases(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the draws, cases and seeds that are scored at all numbers of steps of ours."""

    def place(row: Row) -> tuple[str, int, str, int]:
        return row["dataset"], row["draw"], row["case"], row["seed"]

    steps = {r["steps"] for r in rows if r["method"] == OURS}
    places = [{place(r) for r in rows if r["method"] == OURS and r["steps"] == s} for s in steps]
    common = set.intersection(*places) if places else set()
    return [r for r in rows if place(r) in common]
