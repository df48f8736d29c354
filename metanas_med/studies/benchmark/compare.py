"""Which rows of the results stand beside which: same organs, draws and cases, and equal steps, gradient evaluations or seconds."""

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
    """Return the rows of ``results.csv``, numbers as numbers; one that is not known is NaN."""
    rows: list[Row] = [*read_csv(path)]
    for row in rows:
        row.update({key: int(row[key]) for key in _INTS} | {key: float(row[key] or "nan") for key in _FLOATS})
    return rows


def done_of(cells: Iterable[Cell], rows: Iterable[Row]) -> set[Cell]:
    """Return the ``cells`` that have rows."""
    there = {place_of(row) for row in rows}
    return {cell for cell in cells if cell.place in there}


def place_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the `Cell.place` of the cell that a row is of. A method that has a time takes as many steps as fit into it."""
    steps = "0" if row["budget"] else str(row["steps"])
    return (*(str(row[key]) for key in ("held_out", "dataset", "target", "method", "shots", "budget", "draw", "seed")), steps)


def whole(rows: Iterable[Row], method: str, settings: BenchmarkSettings) -> bool:
    """Return whether ``rows`` of a method cover every test data set of ``settings``, with all draws and all of its seeds for each organ."""
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
    """Return the mean over cells of a column that is of a cell, not of an organ: one of more labels has more rows."""
    return float(np.mean(list({place_of(r): r[key] for r in rows}.values())))


def organ_name(key: Key, keys: Iterable[Key]) -> str:
    """Return what tables and figures call an organ among ``keys``: with its data set, where there are several, which may have organs of one name."""
    dataset, organ = key
    return f"{dataset.split('_')[0]} {organ}" if len({d for d, _ in keys}) > 1 else organ


def devices(rows: Iterable[Row]) -> str:
    """Return the kinds of device that ``rows`` come from, in words."""
    return ", ".join(sorted({r["device"] for r in rows}))


def at(rows: Iterable[Row], method: str, steps: int) -> list[Row]:
    """Return the rows of a method at ``steps``; of one that has a time in place of steps, those of its time."""
    timed = METHODS[method].timed
    return [
        r for r in rows if r["method"] == method and (bool(r["budget"]) if timed else not r["budget"] and r["steps"] == steps)
    ]


def matched(rows: Sequence[Row], method: str, steps: int, whose: str = OURS) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return, by what is equal, the rows of ``whose`` (ours) at ``steps`` and those of ``method`` beside them; none where it has no such cells.

    Equal gradient evaluations: the fewest steps with no fewer than ours, data set by data set. Equal seconds: the cells that had
    the time of one adaptation of ours, on a device of its kind. A method that has a time of its own stands under ``its own time`` alone.
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
    """Return the rows of both, draw by draw, whose seconds are of one kind of device: those of a GPU are not those of a CPU."""

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
    """Return whether a mean over organs of ``mine``, of one method and length, may stand beside ours: same organs, draws, cases and seeds.

    Ours (among ``rows``) at the same number of steps; where it has none of that, or ``mine`` has a time in place of steps, at
    ``REFERENCE_STEPS``. A method of one group alone must not be drawn beside means over all of them.
    A method that has one seed by design is not asked for others.
    """
    several = bool(mine) and METHODS[mine[0]["method"]].several_seeds

    def places(some: Iterable[Row]) -> set[tuple[str, str, int, str, int]]:
        return {(r["dataset"], r["organ"], r["draw"], r["case"], r["seed"] if several else 0) for r in some}

    ours = at(rows, OURS, mine[0]["steps"]) if mine and not mine[0]["budget"] else []
    return bool(mine) and places(mine) == places(ours or at(rows, OURS, REFERENCE_STEPS))


def same_seeds(ours: Sequence[Row], other: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of both, draw by draw of the seeds that both have, where both start from meta-trained states.

    A method that has one seed by design, or only so far, is set against that state of ours: the luck of another meta-training is no margin.
    """
    if not all(METHODS[r["method"]].pretraining for r in (*ours, *other)):
        return list(ours), list(other)

    def place(row: Row) -> tuple[str, str, int, int]:
        return row["dataset"], row["organ"], row["draw"], row["seed"]

    both = {place(r) for r in ours} & {place(r) for r in other}
    return [r for r in ours if place(r) in both], [r for r in other if place(r) in both]


def difference(ours: Sequence[Row], other: Sequence[Row], level: float = 0.95) -> Margin | None:
    """Return the margin over the organs, draws, cases and seeds that both have; None where they share nothing. ``level``: of the interval."""
    a, b = (by_organ(rows) for rows in same_seeds(ours, other))
    arrays: dict[str, list[np.ndarray]] = defaultdict(list)
    luck = _luck(ours)
    for dataset in sorted({dataset for dataset, _ in set(a) & set(b)}):
        organs = sorted(organ for d, organ in set(a) & set(b) if d == dataset)
        places = set.intersection(*(set(found[dataset, organ]) for found in (a, b) for organ in organs))
        cases = sorted({case for _, case in places})
        # a draw counts where all of its cases are there: a grid in the making has whole cells only
        draws = [draw for draw in sorted({draw for draw, _ in places}) if all((draw, case) in places for case in cases)]
        if draws and cases:
            # images of the same patients, with the same supports, are resampled as one
            arrays[f"{luck[dataset]} {draws} {cases}"].append(
                np.array([[[a[dataset, o][d, c] - b[dataset, o][d, c] for c in cases] for d in draws] for o in organs])
            )
    parts = {name: np.concatenate(same) for name, same in arrays.items()}
    return paired_margin(parts, level=level) if parts else None


def _luck(rows: Iterable[Row]) -> dict[str, str]:
    """Return a name by data set that those share whose supports and cases are the same: two images of a patient share the luck of a draw."""
    places: dict[str, set[tuple[int, str, str]]] = defaultdict(set)
    for r in rows:
        places[r["dataset"]].add((r["draw"], r.get("support_hash") or r["dataset"], r["case"]))
    first: dict[frozenset, str] = {}
    return {dataset: first.setdefault(frozenset(places[dataset]), dataset) for dataset in sorted(places)}


def shared_cases(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the draws, cases and seeds that are scored at every number of steps of ours."""

    def place(row: Row) -> tuple[str, int, str, int]:
        return row["dataset"], row["draw"], row["case"], row["seed"]

    steps = {r["steps"] for r in rows if r["method"] == OURS}
    places = [{place(r) for r in rows if r["method"] == OURS and r["steps"] == s} for s in steps]
    common = set.intersection(*places) if places else set()
    return [r for r in rows if place(r) in common]
