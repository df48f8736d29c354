"""Tables of the benchmark, and how a margin is written in figures and in words."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from ...report.statistics import Margin, mean_ranks
from .cells import REFERENCE_STEPS, Cell
from .compare import (
    OURS,
    Key,
    Row,
    at,
    beside_ours,
    by_organ,
    cell_mean,
    difference,
    matched,
    mean,
    mean_of_organs,
    organ_means,
    organ_name,
    shared_cases,
)
from .methods import METHODS

#: Dice below which an organ counts as missed
MISSED = 0.05
#: numbers of draws that are too few for a verdict
_FEW = {1: "one draw", 2: "two draws"}


def methods_in(rows: Sequence[Row]) -> list[str]:
    """Return the methods of ``rows``, in the order of the table of methods."""
    found = {r["method"] for r in rows}
    return [name for name in METHODS if name in found]


def progress_table(planned: Sequence[Cell], done: Container[Cell]) -> tuple[list[Row], list[str]]:
    """Return a table of done / planned cells, and the methods without any cell. A row is a method, a column shots and a seed."""
    count: dict[str, dict[str, list[int]]] = {}
    for cell in sorted(planned, key=lambda c: (-c.shots, c.seed)):
        numbers = count.setdefault(cell.method, {}).setdefault(f"{cell.shots} scan(s), seed {cell.seed}", [0, 0])
        numbers[0] += cell in done
        numbers[1] += 1
    columns = dict.fromkeys(name for numbers in count.values() for name in numbers)
    methods = [name for name in METHODS if name in count]
    table = [
        {"method": m} | {name: "{} / {}".format(*count[m][name]) if name in count[m] else "" for name in columns} for m in methods
    ]
    return table, [m for m in methods if not any(some for some, _ in count[m].values())]


def organ_table(rows: Sequence[Row]) -> list[Row]:
    """Return Dice by organ, and mean and mean rank of methods that can be ranked. A transductive method has no rank."""
    means, keys, full = complete(rows)
    fair = {m: values for m, values in full.items() if METHODS[m].unlabelled != "query"}
    ranks = mean_ranks(fair) if len(fair) > 1 else {}
    mixed = len({r["device"] for r in rows}) > 1
    table = []
    for method, found in means.items():
        mine = at(rows, method, REFERENCE_STEPS)
        line: Row = {"method": method}
        for key in keys:
            line[organ_name(key, keys)] = f"{found[key]:.3f}" if key in found else ""
        line["mean"] = f"{np.mean(full[method]):.3f}" if method in full else ""
        line["rank"] = f"{ranks[method]:.1f}" if method in ranks else ""
        line["NSD"] = f"{mean(mine, 'nsd'):.3f}" if method in full else ""
        line["HD95 mm"] = f"{mean(mine, 'hd95_mm'):.1f}" if method in full else ""
        missed = sum(r["dice"] < MISSED for r in mine)
        line["missed"] = f"{missed} of {len(mine)}" if method in full else ""
        line["seconds"] = _seconds(mine) if mixed else f"{cell_mean(mine, 'seconds'):.1f}"
        line["gradients"] = f"{cell_mean(mine, 'gradient_evaluations'):.0f}"
        cost = cell_mean(mine, "multiply_adds")
        line["multiply-adds"] = f"{cost / 1e9:.2f} G" if np.isfinite(cost) else ""
        table.append(line)
    return table


def _seconds(rows: Sequence[Row]) -> str:
    """Return the mean seconds of ``rows`` for each kind of device."""
    kinds = {kind: [r for r in rows if r["device"] == kind] for kind in sorted({r["device"] for r in rows})}
    return ", ".join(f"{cell_mean(some, 'seconds'):.1f} ({kind})" for kind, some in kinds.items())


def complete(rows: Sequence[Row]) -> tuple[dict[str, dict[Key, float]], list[Key], dict[str, list[float]]]:
    """Return mean Dice by method and organ, all organs, and the values in that order of the methods that can be ranked.

    A method can be ranked if it has every organ, draw and case that any method has, and every seed if it is planned with several.
    """
    found = {m: mine for m in methods_in(rows) if (mine := at(rows, m, REFERENCE_STEPS))}
    means = {m: organ_means(mine) for m, mine in found.items()}
    keys = sorted({key for organs in means.values() for key in organs})

    def places(mine: Sequence[Row], seeds: bool) -> set[tuple[str, str, int, str, int]]:
        return {(r["dataset"], r["organ"], r["draw"], r["case"], r["seed"] if seeds else 0) for r in mine}

    everything = {seeds: set[tuple]().union(*(places(mine, seeds) for mine in found.values())) for seeds in (False, True)}
    whole = [m for m, mine in found.items() if places(mine, s := METHODS[m].several_seeds) == everything[s]]
    return means, keys, {m: [means[m][key] for key in keys] for m in whole}


def margin_table(rows: Sequence[Row]) -> list[Row]:
    """Return our margins over every other method, by what is equal."""
    table, organs = [], num_organs(rows)
    for method in methods_in(rows):
        if method != OURS and at(rows, OURS, REFERENCE_STEPS):
            views = matched(rows, method, REFERENCE_STEPS)
            table.append({"against": method} | {name: interval(difference(*pair), organs) for name, pair in views.items()})
    return table


def num_organs(rows: Sequence[Row]) -> int:
    """Return the number of organs of our method."""
    return len(by_organ(at(rows, OURS, REFERENCE_STEPS)))


def interval(margin: Margin | None, organs: int = 0) -> str:
    """Return a margin with its interval, and a note where it has fewer than three draws or than ``organs``; empty for None."""
    if margin is None:
        return ""
    notes = [_FEW[margin.draws]] if margin.draws in _FEW else []
    notes += _part_of(margin, organs)
    return " ".join(
        [f"{margin.mean:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}]", *([f"({', '.join(notes)})"] if notes else [])]
    )


def _part_of(margin: Margin, organs: int) -> list[str]:
    return [f"{margin.organs} of {organs} organs"] if margin.organs < organs else []


def step_table(rows: Sequence[Row]) -> list[Row]:
    """Return Dice by method and number of steps, on the cases that all our numbers of steps have.

    Empty where a method has other cells.
    """
    shared = shared_cases(rows)
    steps = sorted({r["steps"] for r in shared if not r["budget"]})
    table = []
    for method in methods_in(shared):
        mine = [r for r in shared if r["method"] == method]
        line: Row = {"method": method}
        for number in steps:
            found = [r for r in mine if r["steps"] == number and not r["budget"]]
            line[str(number)] = f"{mean_of_organs(found):.3f}" if beside_ours(shared, found) else ""
        timed = [r for r in mine if r["budget"] and METHODS[method].timed]
        line["by time"] = f"{mean_of_organs(timed):.3f} ({timed[0]['budget']})" if beside_ours(shared, timed) else ""
        if any(value for name, value in line.items() if name != "method"):
            table.append(line)
    return table


def sentence(other: str, margin: Margin, ours: str = OURS, organs: int = 0) -> str:
    """Return by how much ``ours`` is above or below ``other``, and whether that is beyond noise."""
    size = f"{abs(margin.mean):.3f} Dice [{margin.low:+.3f}, {margin.high:+.3f}]"
    verdict = "beyond noise" if margin.beyond_noise else "within noise"
    noise = f"{_FEW[margin.draws]}: too few for a verdict" if margin.draws in _FEW else verdict
    notes = ", ".join([noise, *_part_of(margin, organs)])
    return f"`{ours}` is {size} {'above' if margin.mean >= 0 else 'below'} `{other}` ({notes})"


def bullets(sentences: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
