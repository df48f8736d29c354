"""Tables, figures and words of the benchmark, from ``results.csv`` alone."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config import BenchmarkSettings
from ...files import write_text
from ...report.figures import bars, curves
from ...report.statistics import Margin, mean_ranks, paired_margin
from ...report.tables import markdown_table
from .cells import REFERENCE_STEPS, grid
from .methods import METHODS

Row = dict[str, Any]
Key = tuple[str, str]  #: data set, organ
OURS = "metanas"
#: Dice by which ours is to lead every other method at equal gradient evaluations, by shots
GOALS = {5: 0.03, 1: 0.05}

_PLACE = ("held_out", "dataset", "target", "method", "shots", "draw", "seed")
_INTS = ("shots", "steps", "draw", "seed", "development", "gradient_evaluations")
_FLOATS = ("dice", "nsd", "hd95_mm", "seconds", "parameters", "multiply_adds")


def read_results(path: Path) -> list[Row]:
    """Return the rows of ``results.csv``, numbers as numbers."""
    with open(path, newline="") as source:
        rows: list[Row] = list(csv.DictReader(source))
    for row in rows:
        row.update({key: int(row[key]) for key in _INTS} | {key: float(row[key] or "nan") for key in _FLOATS})
    return rows


def write_report(folder: Path, settings: BenchmarkSettings, dropped: Mapping[str, str] | None = None) -> Path:
    """Return the path of ``benchmark.md`` after writing it and its figures from ``folder/results.csv``."""
    rows = read_results(folder / "results.csv")
    parts = [_head(rows, settings, dropped)]
    for development in (False, True):
        mine = [r for r in rows if bool(r["development"]) == development]
        if mine:
            parts.append(_part(folder, mine, settings, development))
    path = folder / "benchmark.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _head(rows: Sequence[Row], settings: BenchmarkSettings, dropped: Mapping[str, str] | None) -> str:
    cells = {tuple(r[k] for k in _PLACE) + (0 if r["budget"] else r["steps"],) for r in rows}
    planned = len(grid(settings))
    state = "complete" if len(cells) == planned else f"**unfinished: {len(cells)} of {planned} cells**"
    text = (
        "# Few-shot benchmark\n\nMade by `metanas-med benchmark --config benchmark` (tables alone: `--report`) from `results.csv`, a row a cell, "
        "case and organ. Whole volumes, own geometry; supports and queries are of different patients; every group is held out of "
        f"meta-training with all that is related to it.\n\nThe grid is {state}. Code: {', '.join(sorted({r['code'] for r in rows}))}. "
        f"Device: {', '.join(sorted({r['device'] for r in rows}))}."
    )
    if dropped:
        text += "\n\nLeft out: " + "; ".join(f"`{name}` ({why})" for name, why in dropped.items()) + "."
    table = [{"method": name, "what it is": METHODS[name].about} for name in METHODS if any(r["method"] == name for r in rows)]
    return text + "\n\n" + markdown_table(table)


def _part(folder: Path, rows: Sequence[Row], settings: BenchmarkSettings, development: bool) -> str:
    kind = "development" if development else "test"
    title = "Development groups (settings were chosen on these)" if development else "Test groups (nothing was chosen on these)"
    whole = [r for r in rows if r["target"] == "all"]
    parts = [f"## {title}"]
    for shots in settings.shots:
        mine = [r for r in whole if r["shots"] == shots]
        if not mine:
            continue
        parts.append(f"### {shots} scan(s)")
        parts.append(_words(mine, shots))
        parts.append(f"Dice after {REFERENCE_STEPS} steps, mean over cases, draws and seeds:\n\n{markdown_table(_organs(mine))}")
        parts.append(f"Margins of `{OURS}` with 95 % intervals (draws and cases resampled):\n\n{markdown_table(_margins(mine))}")
        parts.append(f"Dice against steps, on the cases that all steps share:\n\n{markdown_table(_curve_table(mine))}")
        stem = f"benchmark_{kind}_{shots}shot"
        _figures(folder, stem, mine, f"{kind} groups, {shots} scan(s)")
        figures = {"steps": "steps", "seconds": "seconds", "cost": "multiply-adds", "organs": "organs"}
        parts += [f"![Dice by {what}]({stem}_{name}.png)" for name, what in figures.items()]
    if len({r["shots"] for r in whole}) > 1:
        _shots_figure(folder / f"benchmark_{kind}_shots.png", whole, f"{kind} groups, {REFERENCE_STEPS} steps")
        parts.append(f"![Dice against shots](benchmark_{kind}_shots.png)")
    single = [r for r in rows if r["target"] != "all"]
    if single:
        table = [
            {"scans": shots, **line} for shots in settings.shots for line in _organs([r for r in single if r["shots"] == shots])
        ]
        parts.append(f"### Each organ by itself\n\nDice after {REFERENCE_STEPS} steps:\n\n{markdown_table(table)}")
    return "\n\n".join(parts)


def _methods(rows: Iterable[Row]) -> list[str]:
    found = {r["method"] for r in rows}
    return [name for name in METHODS if name in found]


def _at(rows: Iterable[Row], method: str, steps: int) -> list[Row]:
    """Return the rows of a method at ``steps``; a method with a budget of time has one number of steps, its own."""
    return [r for r in rows if r["method"] == method and (r["budget"] or r["steps"] == steps)]


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(np.mean([r[key] for r in rows]))


def _by_organ(rows: Iterable[Row]) -> dict[Key, dict[tuple[int, str], float]]:
    """Return Dice by organ and (draw, case), the mean over seeds."""
    found: dict[Key, dict[tuple[int, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        found[r["dataset"], r["organ"]][r["draw"], r["case"]].append(r["dice"])
    return {key: {place: float(np.mean(v)) for place, v in places.items()} for key, places in found.items()}


def _difference(ours: Sequence[Row], other: Sequence[Row]) -> Margin | None:
    """Return the margin over the organs, draws and cases that both have; None where they share nothing."""
    a, b = _by_organ(ours), _by_organ(other)
    matrices = {}
    for key in sorted(set(a) & set(b)):
        draws = sorted({d for d, _ in a[key]} & {d for d, _ in b[key]})
        cases = sorted({c for _, c in a[key]} & {c for _, c in b[key]})
        draws = [d for d in draws if all((d, c) in a[key] and (d, c) in b[key] for c in cases)]
        if draws and cases:
            matrices["/".join(key)] = np.array([[a[key][d, c] - b[key][d, c] for c in cases] for d in draws])
    return paired_margin(matrices) if matrices else None


def _matched(rows: Sequence[Row], method: str, key: str, least: float) -> list[Row]:
    """Return the cheapest rows of ``method``, scored like ours, whose mean ``key`` is at least ``least``; else the dearest."""
    mine = [r for r in rows if r["method"] == method]
    if any(r["budget"] for r in mine):
        return mine
    cases = {r["case"] for r in _at(rows, OURS, REFERENCE_STEPS)}
    by_steps = {steps: [r for r in mine if r["steps"] == steps] for steps in sorted({r["steps"] for r in mine})}
    full = {steps: found for steps, found in by_steps.items() if {r["case"] for r in found} == cases}
    return next((found for found in full.values() if _mean(found, key) >= least), full[max(full)] if full else [])


def _margins(rows: Sequence[Row]) -> list[Row]:
    ours = _at(rows, OURS, REFERENCE_STEPS)
    table = []
    for method in _methods(rows):
        if method == OURS or not ours:
            continue
        line: Row = {"against": method}
        views: dict[str, list[Row]] = {
            "equal steps": _at(rows, method, REFERENCE_STEPS),
            "equal gradient evaluations": _matched(rows, method, "gradient_evaluations", _mean(ours, "gradient_evaluations")),
            "equal seconds": _matched(rows, method, "seconds", _mean(ours, "seconds")),
        }
        for name, other in views.items():
            margin = _difference(ours, other) if other else None
            steps = sorted({r["steps"] for r in other})
            at = f", at {steps[0]}" if len(steps) == 1 and steps[0] != REFERENCE_STEPS else ""
            line[name] = f"{margin.mean:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}]{at}" if margin else ""
        table.append(line)
    return table


def _organs(rows: Sequence[Row]) -> list[Row]:
    """Return Dice by organ after the reference steps, the mean, and the mean rank over organs."""
    by_method = {m: _by_organ(_at(rows, m, REFERENCE_STEPS)) for m in _methods(rows)}
    means = {m: {key: float(np.mean(list(v.values()))) for key, v in found.items()} for m, found in by_method.items() if found}
    keys = sorted({key for found in means.values() for key in found})
    full = {m: [found[key] for key in keys] for m, found in means.items() if set(found) == set(keys)}
    ranks = mean_ranks(full) if len(full) > 1 else {}
    several = len({dataset for dataset, _ in keys}) > 1
    table = []
    for method, found in means.items():
        mine = _at(rows, method, REFERENCE_STEPS)
        line: Row = {"method": method}
        for dataset, organ in keys:
            name = f"{dataset.split('_')[0]} {organ}" if several else organ
            line[name] = f"{found[dataset, organ]:.3f}" if (dataset, organ) in found else ""
        line |= {"mean": f"{np.mean(list(found.values())):.3f}", "rank": f"{ranks[method]:.1f}" if method in ranks else ""}
        line |= {
            "NSD": f"{_mean(mine, 'nsd'):.3f}",
            "HD95 mm": f"{_mean(mine, 'hd95_mm'):.1f}",
            "seconds": f"{_mean(mine, 'seconds'):.1f}",
        }
        line["gradients"] = f"{_mean(mine, 'gradient_evaluations'):.0f}"
        line["multiply-adds"] = f"{_mean(mine, 'multiply_adds') / 1e9:.2f} G" if np.isfinite(_mean(mine, "multiply_adds")) else ""
        table.append(line)
    return table


def _shared(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the cases that are scored at every number of steps of the search."""
    steps = {r["steps"] for r in rows if r["method"] == OURS}
    cases = [{(r["dataset"], r["case"]) for r in rows if r["method"] == OURS and r["steps"] == s} for s in steps]
    common = set.intersection(*cases) if cases else set()
    return [r for r in rows if (r["dataset"], r["case"]) in common]


def _mean_of_organs(rows: Sequence[Row]) -> float:
    return float(np.mean([np.mean(list(v.values())) for v in _by_organ(rows).values()]))


def _curve_table(rows: Sequence[Row]) -> list[Row]:
    shared = _shared(rows)
    steps = sorted({r["steps"] for r in shared if not r["budget"]})
    table = []
    for method in _methods(shared):
        mine = [r for r in shared if r["method"] == method]
        line: Row = {"method": method}
        for number in steps:
            found = [r for r in mine if r["steps"] == number and not r["budget"]]
            line[str(number)] = f"{_mean_of_organs(found):.3f}" if found else ""
        budgeted = [r for r in mine if r["budget"]]
        line["by time"] = f"{_mean_of_organs(budgeted):.3f} ({budgeted[0]['budget']})" if budgeted else ""
        table.append(line)
    return table


def _figures(folder: Path, stem: str, rows: Sequence[Row], title: str) -> None:
    shared, names = _shared(rows), _methods(rows)

    def points(x: Callable[[list[Row]], float]) -> list[Row]:
        found = []
        for method in names:
            groups: dict[int, list[Row]] = defaultdict(list)
            for r in shared:
                if r["method"] == method:
                    groups[0 if r["budget"] else r["steps"]].append(r)
            found += [{"x": x(mine), method: _mean_of_organs(mine)} for mine in groups.values()]
        return sorted(found, key=lambda p: p["x"])

    for name, label, x in (
        ("steps", "steps", lambda mine: _mean(mine, "steps")),
        ("seconds", "seconds of adaptation", lambda mine: _mean(mine, "seconds")),
    ):
        curves(folder / f"{stem}_{name}.png", [{label: p.pop("x"), **p} for p in points(x)], label, names, f"Dice, {title}")
    at = {m: _at(rows, m, REFERENCE_STEPS) for m in names}
    known = {m: mine for m, mine in at.items() if mine and np.isfinite(_mean(mine, "multiply_adds"))}
    cost = [{"giga multiply-adds": _mean(mine, "multiply_adds") / 1e9, m: _mean_of_organs(mine)} for m, mine in known.items()]
    curves(folder / f"{stem}_cost.png", cost, "giga multiply-adds", names, f"Dice after {REFERENCE_STEPS} steps, {title}")
    lines = []
    for key in sorted(_by_organ(at.get(OURS, []))):
        for method in names:
            values = _by_organ(at[method]).get(key)
            if values:
                draws = sorted({d for d, _ in values})
                by_draw = [float(np.mean([v for (d, _), v in values.items() if d == draw])) for draw in draws]
                lines.append(
                    {"name": f"{key[1]}, {method}", "mean": float(np.mean(by_draw)), "low": min(by_draw), "high": max(by_draw)}
                )
    bars(
        folder / f"{stem}_organs.png",
        lines,
        f"Dice after {REFERENCE_STEPS} steps by organ (line: lowest and highest draw), {title}",
    )


def _shots_figure(path: Path, rows: Sequence[Row], title: str) -> None:
    lines = []
    for shots in sorted({r["shots"] for r in rows}):
        line: Row = {"scans": shots}
        for method in _methods(rows):
            found = _at([r for r in rows if r["shots"] == shots], method, REFERENCE_STEPS)
            if found:
                line[method] = _mean_of_organs(found)
        lines.append(line)
    curves(path, lines, "scans", _methods(rows), f"Dice, {title}")


def _words(rows: Sequence[Row], shots: int) -> str:
    """Return who wins, by how much, whether that is more than noise, and which goals are reached."""
    ours = _at(rows, OURS, REFERENCE_STEPS)
    if not ours:
        return f"`{OURS}` has no cell here yet."
    lines, worst = [], []
    gradients = _mean(ours, "gradient_evaluations")
    others = {
        m: _matched(rows, m, "gradient_evaluations", gradients) for m in _methods(rows) if m != OURS and not METHODS[m].budget
    }
    margins = {m: margin for m, other in others.items() if other and (margin := _difference(ours, other))}
    if margins:
        closest = min(margins, key=lambda m: margins[m].mean)
        lines.append(
            f"At equal gradient evaluations ({gradients:.0f}) {_sentence(closest, margins[closest], 'the strongest other method')}."
        )
        goal = GOALS.get(shots)
        if goal:
            reached = [m for m, margin in margins.items() if margin.mean >= goal]
            state = "reached" if len(reached) == len(margins) else f"missed: reached against {len(reached)} of {len(margins)}"
            lines.append(f"Goal (at least {goal:+.2f} over every other method at equal gradient evaluations): {state}.")
    for other in (f"{OURS}-frozen", f"{OURS}-random"):
        margin = _difference(ours, found) if (found := _at(rows, other, REFERENCE_STEPS)) else None
        if margin:
            lines.append(f"Adapting alpha: {_sentence(other, margin, '')}, at equal steps.")
    at = {m: _by_organ(_at(rows, m, REFERENCE_STEPS)) for m in _methods(rows)}
    for key, mine in _by_organ(ours).items():
        rest = [np.mean(list(found[key].values())) for m, found in at.items() if m != OURS and key in found]
        if rest and np.mean(list(mine.values())) < min(rest):
            worst.append(key[1])
    lines.append(f"Worst of all on: {', '.join(sorted(worst)) if worst else 'no organ'}.")
    return " ".join(lines)


def _sentence(other: str, margin: Margin, what: str) -> str:
    size = f"{abs(margin.mean):.3f} Dice [{margin.low:+.3f}, {margin.high:+.3f}]"
    verdict = "more than noise" if margin.beyond_noise else "within noise"
    side = "above" if margin.mean >= 0 else "below"
    return f"`{OURS}` is {size} {side} `{other}`" + (f", {what}" if what else "") + f" ({verdict})"
