"""Figures of the benchmark: Dice against steps, seconds, multiply-adds and shots, and by organ.

A mean over organs is drawn only where it covers the same organs, draws and cases as ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...engine.metrics import bootstrap_interval
from ...report.figures import bars, curves, panels
from .cells import REFERENCE_STEPS
from .compare import OURS, Key, Row, at, beside_ours, by_organ, cell_mean, mean_of_organs, organ_name, shared_cases
from .methods import METHODS


def write_figures(folder: Path, stem: str, rows: Sequence[Row], title: str) -> dict[str, str]:
    """Return the file names of the figures by what they show, after writing them to ``folder``."""
    names = [m for m in METHODS if any(r["method"] == m for r in rows)]
    shared = shared_cases(rows)
    files = {"steps": "steps", "seconds": "seconds", "multiply-adds": "cost", "organs": "organs"}
    made = {what: f"{stem}_{name}.png" for what, name in files.items()}
    for key, label in (("steps", "steps"), ("seconds", "seconds")):
        points = [{label: p.pop("x"), **p} for p in _points(shared, names, lambda mine, key=key: cell_mean(mine, key))]
        curves(folder / made[key], points, label, names, f"Dice, {title}")
    reference = {m: mine for m in names if (mine := at(rows, m, REFERENCE_STEPS))}
    label = "giga multiply-adds"
    costs = {m: cell_mean(mine, "multiply_adds") / 1e9 for m, mine in reference.items()}
    cost = [
        {label: costs[m], m: mean_of_organs(mine)}
        for m, mine in reference.items()
        if np.isfinite(costs[m]) and beside_ours(rows, mine)
    ]
    after = f"Dice after {REFERENCE_STEPS} steps{', or its time budget' if any(METHODS[m].timed for m in names) else ''}"
    curves(folder / made["multiply-adds"], cost, label, names, f"{after}, {title}")
    bars(folder / made["organs"], _organ_lines(reference), f"{after}; 95 % over cases; {title}")
    by_steps = organ_steps(shared, [m for m in names if not METHODS[m].timed])
    if any(len(lines) > 1 for lines in by_steps.values()):
        made["steps, organ by organ"] = f"{stem}_organ_steps.png"
        panels(folder / made["steps, organ by organ"], by_steps, "steps", names, f"Dice against steps, {title}", linear=5)
    return made


def _points(rows: Sequence[Row], names: Sequence[str], x: Callable[[list[Row]], float]) -> list[Row]:
    """Return a point (x, Dice) for each method and number of steps, or time budget."""
    found = []
    for method in names:
        groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
        for r in rows:
            if r["method"] == method:
                groups[r["budget"], 0 if r["budget"] else r["steps"]].append(r)
        found += [{"x": x(mine), method: mean_of_organs(mine)} for mine in groups.values() if beside_ours(rows, mine)]
    return sorted(found, key=lambda p: p["x"])


def organ_steps(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Row]]:
    """Return, by organ, one row a number of steps with the Dice of each method that has all draws and cases of ours."""
    found: dict[Key, dict[int, Row]] = defaultdict(dict)
    rows = [r for r in rows if not r["budget"]]
    ours = by_organ([r for r in rows if r["method"] == OURS])
    for steps in sorted({r["steps"] for r in rows}):
        for method in names:
            for key, places in by_organ([r for r in rows if (r["method"], r["steps"]) == (method, steps)]).items():
                if key in ours and set(places) >= set(ours[key]):
                    found[key].setdefault(steps, {"steps": steps})[method] = float(np.mean(list(places.values())))
    return {organ_name(key, found): [*found[key].values()] for key in sorted(found)}


def _organ_lines(reference: dict[str, list[Row]]) -> list[Row]:
    lines = []
    scores = {method: by_organ(mine) for method, mine in reference.items()}
    keys = sorted({key for found in scores.values() for key in found})
    for key in keys:
        for method, found in scores.items():
            if key in found:
                cases: dict[str, list[float]] = defaultdict(list)
                for (_, case), dice in found[key].items():
                    cases[case].append(dice)
                values = [float(np.mean(v)) for v in cases.values()]
                low, high = bootstrap_interval(values)
                lines.append(
                    {"group": organ_name(key, keys), "kind": method, "mean": float(np.mean(values)), "low": low, "high": high}
                )
    return lines


def write_shots_figure(path: Path, rows: Sequence[Row], title: str) -> None:
    """Write Dice against the number of scans, one line a method."""
    names = [m for m in METHODS if any(r["method"] == m for r in rows)]
    lines = []
    for shots in sorted({r["shots"] for r in rows}):
        line: Row = {"scans": shots}
        for method in names:
            these = [r for r in rows if r["shots"] == shots]
            found = at(these, method, REFERENCE_STEPS)
            if beside_ours(these, found):
                line[method] = mean_of_organs(found)
        lines.append(line)
    curves(path, lines, "scans", names, f"Dice, {title}")
