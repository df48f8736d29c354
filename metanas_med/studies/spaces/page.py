"""The page of the study, from ``spaces.csv`` alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from ...files import write_csv, write_text
from ...report.tables import markdown_table
from ..grid.cells import read_cells
from ..grid.published import check_keeps, rows_to_show
from .cells import FIXED, ONE_PATH, RANDOM, SEARCH, STEP, grid, impossible
from .settings import SpacesSettings
from .work import COLUMNS

#: how many paths a step of a learner that samples may keep in memory; the others keep every option
PATHS = {"gdas": 1, "single_path": 1, "fairnas": 1, "proxyless": 2}
#: goal: largest ratio to the memory of so many paths
GOAL = 1.15
#: kind of the rows that say why a combination is impossible
IMPOSSIBLE = "impossible"
Row = Mapping[str, str]


def publish(settings: SpacesSettings) -> Path:
    """Return the path of ``results``/spaces.md after writing it and ``spaces.csv`` from the cells that are done.

    Without cells the page is written from a published ``spaces.csv``; DataError where there is none.
    """
    results = Path(settings.results or settings.out)
    rows = [found["row"] for found in read_cells(Path(settings.out) / "cells", [cell.file for cell in grid(settings)])]
    if rows:
        for (space, learner), reason in impossible(settings).items():
            rows.append(dict.fromkeys(COLUMNS, "") | {"kind": IMPOSSIBLE, "space": space, "what": learner, "reason": reason})
        check_keeps(results / "spaces.csv", rows, _place, "Publish from the folder that holds them, or choose another --results.")
        write_csv(results / "spaces.csv", rows, COLUMNS)
    write_text(results / "spaces.md", page(rows_to_show(results / "spaces.csv")))
    return results / "spaces.md"


def page(rows: Sequence[Row]) -> str:
    """Return the page's text."""
    done = [row for row in rows if row["kind"] != IMPOSSIBLE]
    seeds = len({row["number"] for row in done if row["kind"] == SEARCH})
    about = {
        key: ", ".join(sorted({row[key] for row in done if row[key]})) for key in ("code", "machine", "dataset", "support_hash")
    }
    first = done[0]
    dropped = "" if seeds > 1 else " Seeds were dropped before spaces: the budget is six hours of two cores."
    price, found, leads, refused = (
        price_table(rows),
        result_table(rows),
        lead_table(rows),
        [row for row in rows if row["kind"] == IMPOSSIBLE],
    )
    text = (
        "# Search spaces and task learners\n\n"
        "Written by `metanas-med study spaces --report --results docs/results` from `spaces.csv`. Every space of the package is\n"
        f"searched by every learner that can. Data: {about['dataset']}, a development group; fresh weights, one support of\n"
        f"{first['num_support']} scans ({about['support_hash']}), {first['num_query']} query scans of other patients, {seeds} seed(s)."
        f"{dropped}\nCode {about['code']}; {about['machine']}, one thread a cell.\n\n"
        "## The price of a search step\n\n"
        "*seconds*: processor time of a step, the step of alphas included. *MB*: the most bytes of tensors that a step adds\n"
        "(activations, gradients, temporary maps). *held*: weights and moments, which stay between steps. Each network is in a\n"
        "process of its own. *plain*: the U-Net of the same base width. *one path*: the largest of eight random networks of the\n"
        f"space. A learner that samples may add {GOAL} times the MB of its paths: one, or two for `proxyless`. Candidates are\n"
        "run and stored one by one.\n"
        "Where a space can also merge them (*merged*), a step costs about one network whatever the learner: sampling saves\n"
        "nothing there.\n\n"
        f"{markdown_table(price)}\n"
        f"{_goals(price)}\n\n"
        "## What was derived\n\n"
        "Each network trains from fresh weights with the same steps and patches. Dice is the mean over whole query scans.\n"
        "*random*: architectures of the same space and the cost of the networks that were found (within 10 %, or 25 %), or of any\n"
        "cost where nothing can be searched; the range is the smallest and the largest Dice. *better*: random architectures with a\n"
        "larger Dice than the mean of the seeds. *U-Net*: the plain one with the same multiply-adds.\n\n"
        f"{markdown_table(found)}\n"
        "## Against random architectures of the same cost\n\n"
        "*lead*: mean Dice of what a learner derived minus the mean of the random architectures of the same space, averaged over\n"
        "spaces. *interval*: 95 %, Student's t over spaces; it does not cover the organ and the support. *ahead*: spaces with a lead.\n"
        "The U-Net is compared where a learner searched.\n\n"
        f"{markdown_table(leads)}\n"
        "Limits: one organ, one support, few steps. Differences between two seeds are as large as most differences here. The range\n"
        "of random architectures shows it.\n"
    )
    if refused:
        text += f"\n## Impossible combinations\n\n{markdown_table(_refused(refused))}"
    return text


def price_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line for each space, kind of edge and network whose step was measured."""
    table = []
    mine = [row for row in rows if row["kind"] == STEP]
    for space, edge in dict.fromkeys((row["space"], row["edge"]) for row in mine):
        group = {row["what"]: row for row in mine if (row["space"], row["edge"]) == (space, edge)}
        plain, path = group.get("plain"), group.get(ONE_PATH)
        for what, row in group.items():
            seconds, size = float(row["step_seconds"]), float(row["step_mb"])
            line: dict[str, Any] = {"space": f"{space}, {edge}" if edge == "merged" else space, "network": what}
            line |= {"seconds": seconds, "/ plain": _ratio(seconds, plain, "step_seconds")}
            line |= {"MB": f"{size:.1f}", "MB / plain": _ratio(size, plain, "step_mb"), "held": f"{float(row['held_mb']):.1f}"}
            paths = PATHS.get(what, 0) if edge != "merged" else 0
            ratio = _ratio(size, path, "step_mb") if paths else None
            line["MB / paths"] = None if ratio is None else ratio / paths
            line["paths"] = str(paths) if paths else ""
            table.append(line)
    return table


def result_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line for each space and learner, and for random architectures and the U-Net of each space."""
    table = []
    for space in dict.fromkeys(row["space"] for row in rows if row["kind"] in (SEARCH, RANDOM, FIXED)):
        mine = [row for row in rows if row["space"] == space]
        drawn = [float(row["dice"]) for row in mine if row["kind"] == RANDOM]
        searched = {row["what"]: [r for r in mine if r["kind"] == SEARCH and r["what"] == row["what"]] for row in mine}
        for what, found in searched.items():
            if found:
                dice = float(np.mean([float(row["dice"]) for row in found]))
                better = f"{sum(one > dice for one in drawn)} of {len(drawn)}" if drawn else ""
                table.append({"space": space, "network": what, **_mean_of(found), "better": better})
        for kind, name in ((RANDOM, "random"), (FIXED, "U-Net")):
            if found := [row for row in mine if row["kind"] == kind]:
                table.append({"space": space, "network": name, **_mean_of(found), "better": ""})
    return table


def lead_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return each learner's mean lead in Dice over the random architectures of the same space, over spaces, and the U-Net's."""
    leads: dict[str, list[float]] = {}
    for space in dict.fromkeys(row["space"] for row in rows if row["kind"] == SEARCH):
        mine = [row for row in rows if row["space"] == space]
        drawn = [float(row["dice"]) for row in mine if row["kind"] == RANDOM]
        by_name: dict[str, list[float]] = {}
        for row in mine:
            if row["kind"] in (SEARCH, FIXED):
                by_name.setdefault(row["what"] or "U-Net", []).append(float(row["dice"]))
        for name, dice in by_name.items() if drawn else ():
            leads.setdefault(name, []).append(float(np.mean(dice) - np.mean(drawn)))
    table = []
    for name in sorted(leads, key=lambda name: (name == "U-Net", name)):
        values = np.array(leads[name])
        line = {
            "network": name,
            "lead": f"{values.mean():+.3f}",
            "interval": "",
            "ahead": f"{(values > 0).sum()} of {len(values)}",
        }
        if len(values) > 1:
            half = float(student.ppf(0.975, len(values) - 1)) * values.std(ddof=1) / len(values) ** 0.5
            line["interval"] = f"{values.mean() - half:+.3f} to {values.mean() + half:+.3f}"
        table.append(line)
    return table


def _mean_of(rows: Sequence[Row]) -> dict[str, Any]:
    dice = [float(row["dice"]) for row in rows]
    return {
        "thousand parameters": f"{np.mean([float(row['parameters']) for row in rows]) / 1e3:.1f}",
        "million multiply-adds": f"{np.mean([float(row['multiply_adds']) for row in rows]) / 1e6:.1f}",
        "Dice": float(np.mean(dice)),
        "range": f"{min(dice):.3f} to {max(dice):.3f}",
        "networks": len(rows),
    }


def _goals(price: Sequence[Mapping[str, Any]]) -> str:
    judged = [line for line in price if line["MB / paths"] is not None]
    missed = [
        f"{line['space']} with {line['network']} ({line['MB / paths']:.2f})" for line in judged if line["MB / paths"] > GOAL
    ]
    if not judged:
        return "No learner that samples was measured."
    text = f"Within {GOAL} times their paths: {len(judged) - len(missed)} of {len(judged)}."
    return text + (f"\n{textwrap.fill('Above: ' + ', '.join(missed) + '.', 120)}" if missed else "")


def _refused(rows: Sequence[Row]) -> list[dict[str, str]]:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        by_reason.setdefault((row["space"], row["reason"]), []).append(row["what"])
    return [{"space": space, "learners": ", ".join(names), "reason": reason} for (space, reason), names in by_reason.items()]


def _ratio(value: float, base: Row | None, key: str) -> float | None:
    return None if base is None or not float(base[key]) else value / float(base[key])


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("kind", "space", "what", "number", "edge"))
