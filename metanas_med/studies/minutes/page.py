"""The page of the study and its figure, from ``minutes.csv`` alone, and the CSV from the finished cells."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import csv_path, read_csv, write_csv, write_text
from ...report.figures import panels
from ...report.statistics import Margin
from ...report.tables import markdown_table
from ..grid.cells import read_cells
from ..grid.published import check_keeps, rows_to_show
from ..start.page import wrapped
from .settings import METHODS, MinutesStudySettings
from .values import OURS, OWN, Results, typed
from .work import COLUMNS

log = logging.getLogger(__name__)

#: gain over its own default at five minutes that ``adapt --minutes`` should reach
GAIN_GOAL, GAIN_SECONDS = 0.02, 300.0
#: nnU-Net's Dice on the hippocampus after 30 minutes, to be reached at that time (docs/results.md)
NNUNET_GOAL, NNUNET_SECONDS = 0.857, 1800.0
#: share of tasks in which the choice should differ from the default
SHARE_GOAL = 1 / 3
NOT_RUN = "not run"


def publish(settings: MinutesStudySettings) -> Path:
    """Return the path of ``results``/minutes.md after writing it, its figure and minutes.csv; without cells, from the CSV alone."""
    folder, csv = settings.folder / "cells", settings.published / "minutes.csv"
    if records := read_cells(folder, sorted(path.name for path in folder.glob("*.json"))):
        rows = [record["row"] for record in records]
        rows += nnunet_rows(Path(settings.nnunet), rows)
        order = {name: place for place, name in enumerate(METHODS)}
        rows.sort(key=lambda r: (-int(r["shots"]), float(r["budget_seconds"]), r["dataset"], order[r["method"]], int(r["draw"])))
        check_keeps(csv, rows, _place, "Report from the --out that made them.")
        write_csv(csv, [{key: row.get(key, "") for key in COLUMNS} for row in rows], COLUMNS)
    found = Results(typed(rows_to_show(csv)))
    draw_figure(settings.published / "minutes.png", found)
    page = settings.published / "minutes.md"
    write_text(page, text_of(found))
    return page


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("dataset", "method", "shots", "budget_seconds", "draw"))


def nnunet_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of nnU-Net from the benchmark's results, of the same supports and data sets; none where its own cells exist."""
    if any(row["method"] == "nnunet" for row in rows) or not csv_path(path).is_file():
        return []
    supports = {(r["dataset"], r["support_hash"]): r for r in rows}
    found: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in read_csv(csv_path(path)):
        place = row["dataset"], row["support_hash"]
        if row["method"] == "nnunet-30min" and row["target"] == "all" and place in supports:
            found.setdefault(place, []).append(row)
    made = []
    for place, own in found.items():
        cases = sorted({row["case"] for row in own})
        if len(cases) != int(supports[place]["num_query"]):
            log.warning("nnU-Net's published cell of %s has other scored scans and is left out", place[0])
            continue
        scans = [float(np.mean([float(r["dice"]) for r in own if r["case"] == case])) for case in cases]
        first = own[0]
        made.append(
            {key: supports[place][key] for key in ("dataset", "group", "draw", "num_query", "support_hash")}
            | {"method": "nnunet", "shots": first["shots"], "budget_seconds": f"{NNUNET_SECONDS:g}", "steps": first["steps"]}
            | {"dice": round(float(np.mean(scans)), 5), "dice_by_scan": " ".join(f"{value:.5f}" for value in scans)}
            | {"seconds": first["seconds"], "checkpoint": "nnU-Net", "device": first["device"], "code": first["code"], "tta": 1}
        )
    return made


def draw_figure(path: Path, found: Results) -> None:
    """Write Dice against minutes, from most scans: a panel of the mean over data sets and one of each, a line a method."""
    shots = max(shots for shots, _ in found.budgets)
    budgets = [seconds for number, seconds in found.budgets if number == shots]
    most = max((found.datasets(shots, seconds) for seconds in budgets), key=len)
    whole = [seconds for seconds in budgets if set(found.datasets(shots, seconds)) == set(most)]

    def line(seconds: float, dataset: str) -> dict[str, Any]:
        values = {METHODS[name].replace("`", ""): found.dice(name, shots, seconds, dataset) for name in found.methods}
        return {"minutes": round(seconds / 60, 3)} | values

    groups = {f"mean of {len(most)} data sets": [line(seconds, "") for seconds in whole]} if len(most) > 1 else {}
    groups |= {name: [line(s, name) for s in budgets if name in found.datasets(shots, s)] for name in most}
    names = [METHODS[name].replace("`", "") for name in found.methods]
    panels(path, groups, "minutes", names, f"Dice against minutes, {shots} scans", linear=0.1)


def text_of(found: Results) -> str:
    """Return the page's text."""
    draws = {
        (shots, seconds): len({r["draw"] for r in found.of(OURS, shots, seconds).values()}) for shots, seconds in found.budgets
    }
    parts = [
        "# Dice against minutes\n\n"
        "Written by `metanas-med study minutes --report` from `minutes.csv`. Every method has the same time for the same "
        "support. All labels of a data set at once. No start has seen these organs, nor relatives of them.",
        f"## Goals\n\n{markdown_table(goals(found))}",
        "![Dice against minutes, a line a method](minutes.png)",
        f"## Dice\n\nMean over data sets.\n\n{markdown_table(_table(found, draws))}\n{_about(found)}",
        "## Gain over other methods\n\nDice of `adapt --minutes` minus that of the other method, 95 % intervals over draws and "
        f"scans.\n\n{markdown_table(_gains(found))}",
        f"## By data set\n\n{markdown_table(_by_dataset(found))}",
        f"## The choice\n\n{_choices(found)}",
        f"## Expected Dice\n\n{_expected(found)}",
        _how(found),
        _limits(found),
    ]
    return wrapped("\n\n".join(part.rstrip() for part in parts) + "\n")


def goals(found: Results) -> list[dict[str, Any]]:
    """Return a row a goal: what was found, and whether it is met."""
    rows = []
    for shots, seconds in found.budgets:
        own = found.dice(OURS, shots, seconds)
        others = {name: found.dice(name, shots, seconds) for name in found.methods if name != OURS}
        known = {name: value for name, value in others.items() if value is not None}
        if own is None or not known:
            continue
        best = max(known, key=lambda name: known[name])
        rows.append(_goal(f"{_budget(shots, seconds)}: at or above every other method", own - known[best], 0.0, f" ({best})"))
    shots = max(number for number, _ in found.budgets)
    gain = found.gain(OWN, shots, GAIN_SECONDS)
    rows.append(_goal(f"5 minutes: {GAIN_GOAL} above its default", None if gain is None else gain.mean, GAIN_GOAL))
    long = found.datasets(shots, NNUNET_SECONDS)
    last = found.dice(OURS, shots, NNUNET_SECONDS) if long else None
    rows.append(_goal(f"30 minutes, hippocampus: at least {NNUNET_GOAL}", last, NNUNET_GOAL, sign=""))
    tasks, chosen, margin = [r for r in found.rows if r["method"] == OURS], found.chosen(), found.gain_of_choices()
    share = len(chosen) / len(tasks) if tasks else None
    rows.append(_goal("the choice differs from the default in a third of the tasks", share, SHARE_GOAL, sign=""))
    found_gain = NOT_RUN if margin is None else _text(margin)
    met = "" if margin is None else "yes" if margin.low > 0 else "no"
    rows.append({"goal": "where it differs: a gain whose interval excludes zero", "found": found_gain, "met": met})
    return rows


def _goal(words: str, value: float | None, least: float, more: str = "", sign: str = "+") -> dict[str, Any]:
    if value is None:
        return {"goal": words, "found": NOT_RUN, "met": ""}
    return {"goal": words, "found": f"{value:{sign}.3f}{more}", "met": "yes" if value >= least else "no"}


def _table(found: Results, draws: Mapping[tuple[int, float], int]) -> list[dict[str, Any]]:
    return [
        {"budget": _budget(shots, seconds), "data sets": len(found.datasets(shots, seconds)), "draws": draws[shots, seconds]}
        | {name: _dice(found.dice(name, shots, seconds)) for name in found.methods}
        for shots, seconds in found.budgets
    ]


def _gains(found: Results) -> list[dict[str, Any]]:
    others = [name for name in found.methods if name != OURS]
    return [
        {"budget": _budget(shots, seconds)} | {name: _text(found.gain(name, shots, seconds)) for name in others}
        for shots, seconds in found.budgets
    ]


def _by_dataset(found: Results) -> list[dict[str, Any]]:
    return [
        {"data set": name, "budget": _budget(shots, seconds)}
        | {method: _dice(found.dice(method, shots, seconds, name)) for method in found.methods}
        for shots, seconds in found.budgets
        for name in found.datasets(shots, seconds)
    ]


def _about(found: Results) -> str:
    return "".join(f"\n- `{name}`: {METHODS[name]}." for name in found.methods)


def _choices(found: Results) -> str:
    tasks, chosen, margin = [r for r in found.rows if r["method"] == OURS], found.chosen(), found.gain_of_choices()
    gain = "" if margin is None else f" There it gains {_text(margin)} over the default for as long."
    text = f"The choice differs from the default in {len(chosen)} of {len(tasks)} tasks.{gain}"
    own = {(r["dataset"], r["draw"], r["shots"], r["budget_seconds"]): r for r in found.rows if r["method"] == OWN}
    rows = []
    for row in chosen:
        other = own.get((row["dataset"], row["draw"], row["shots"], row["budget_seconds"]))
        gap = NOT_RUN if other is None else f"{row['dice'] - other['dice']:+.3f}"
        budget = _budget(row["shots"], row["budget_seconds"])
        rows.append(
            {"data set": row["dataset"], "budget": budget, "draw": str(row["draw"]), "choice": row["chosen"], "gain": gap}
        )
    return f"{text}\n\n{markdown_table(rows)}" if rows else text


def _expected(found: Results) -> str:
    rows = []
    for shots, seconds in found.budgets:
        if cells := found.expected(shots, seconds):
            inside = sum(low <= dice <= high for _, low, high, dice in cells)
            gaps = [expected - dice for expected, _, _, dice in cells]
            width = float(np.mean([high - low for _, low, high, _ in cells]))
            rows.append(
                {"budget": _budget(shots, seconds), "measured Dice inside the interval": f"{inside} of {len(cells)}"}
                | {"expected minus measured": f"{np.mean(gaps):+.3f}", "width of the interval": f"{width:.3f}"}
            )
    if not rows:
        return "No cell of `adapt --minutes` gave an interval."
    return f"Cross-validated on the support by `adapt --minutes`, against the scored scans.\n\n{markdown_table(rows)}"


def _how(found: Results) -> str:
    rows = [r for r in found.rows if r["method"] != "nnunet"]
    over = max((r["seconds"] - r["budget_seconds"] for r in rows), default=0.0)
    return (
        "## How it was measured\n\n"
        "```\nmetanas-med study minutes --start RUN --joint JOINT --cache CACHE --out runs/minutes\n"
        "metanas-med study minutes --report --out runs/minutes --results docs/results\n```\n\n"
        "- The time is wall time from the opened data set to the written model, with all cores for one cell at a time. The longest "
        f"overrun was {over:.1f} s. nnU-Net's time is that of its training alone.\n"
        "- The first draw of everything comes before a second one. Where time is short there are fewer draws, not fewer organs.\n"
        "- All methods but nnU-Net have the same augmentation, mean of weights and views. Those that choose nothing predict with "
        "test-time augmentation. `minutes` decides that by cross-validation.\n"
        f"- Scored scans of other patients: {_span(found, 'num_query')}, the same for all draws. Threads: {_list(found, 'threads')}. "
        f"Processor: {_list(found, 'machine')}.\n"
        f"- Checkpoints: {_list(found, 'checkpoint')}. Code: {_list(found, 'code')}. Settings: {_list(found, 'settings')}."
    )


def _limits(found: Results) -> str:
    draws = max((r["draw"] for r in found.rows), default=0) + 1
    few = f"- {draws} draw(s) at most: the intervals over draws are rough.\n" if draws < 5 else ""
    return (
        f"## Limits\n\n{few}- Each method has one start and one seed. Intervals do not cover the variance between meta-trainings.\n"
        "- Other machines take more or fewer steps in the same time.\n"
    )


def _budget(shots: int, seconds: float) -> str:
    time = f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"
    return f"{time}, {shots} scan{'s' if shots > 1 else ''}"


def _dice(value: float | None) -> str:
    return NOT_RUN if value is None else f"{value:.3f}"


def _text(margin: Margin | None) -> str:
    return NOT_RUN if margin is None else f"{margin.mean:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}]"


def _span(found: Results, key: str) -> str:
    return ", ".join(str(value) for value in sorted({r[key] for r in found.rows}))


def _list(found: Results, key: str) -> str:
    return ", ".join(sorted({str(r[key]) for r in found.rows if r[key]})) or "not noted"
