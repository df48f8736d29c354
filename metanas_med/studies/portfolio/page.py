"""The page and the CSV of ``study portfolio``, and ``portfolio.json`` in a start's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engine.configuration import Configuration
from ...engine.meta_run import MetaRun
from ...engine.minutes.portfolio import Candidate, write_portfolio
from ...engine.starts import find_start
from ...errors import ConfigError
from ...files import write_csv, write_text
from ...report.tables import markdown_table
from ..choose.page import write_rows
from ..choose.settings import ChooseSettings
from ..choose.table import Array, Table, over_tasks, table_of
from ..grid.cells import read_cells
from ..grid.published import rows_to_show
from ..start.page import wrapped
from .greedy import LEAST_GAIN, LeftOut, Portfolio, best_of, greedy, leave_one_out, worth_by_size


def publish(settings: ChooseSettings, size: int, into: Path | None = None) -> Path:
    """Return the path of ``results``/portfolio.md after writing it, portfolio.csv and scores.csv, and the start's portfolio.

    ``size``: most configurations. ``into``: the folder of a start. Without cells in ``out``, the rows are those of scores.csv.
    """
    if size < 2:
        raise ConfigError(f"--size: found {size}, expected 2 or more: the default and what is added to it")
    csv = settings.published / "scores.csv"
    folder = settings.folder / "cells"
    if records := read_cells(folder, sorted(path.name for path in folder.glob("*.json"))):
        write_rows(csv, records, [each.name for each in settings.choices])
    rows = rows_to_show(csv)
    table = table_of(rows)
    made = greedy(table, size)
    left, gains = leave_one_out(table, size)
    entries = entries_of(table, made)
    write_csv(settings.published / "portfolio.csv", [{**entry, "picks": json.dumps(dict(entry["picks"]))} for entry in entries])
    page = settings.published / "portfolio.md"
    write_text(page, text_of(table, made, left, gains, size, str(rows[0]["checkpoint"])))
    if into is not None:
        write_into(into, table, made, rows)
    return page


def entries_of(table: Table, made: Portfolio) -> list[dict[str, Any]]:
    """Return a row for each configuration of the portfolio, in order."""
    return [
        {
            "rank": rank,
            "configuration": table.configurations[member],
            "picks": table.picks[member],
            "relative_seconds": round(float(table.relative_seconds[member]), 3),
            "gain": round(over_tasks(table, table.gains[:, member]).mean, 4),
            "added": round(added, 4),
        }
        for rank, (member, added) in enumerate(zip(made.members, made.added, strict=True))
    ]


def write_into(folder: Path, table: Table, made: Portfolio, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Return the path of the portfolio that is written into a start's ``folder``.

    The start need not be that of the cells, which held out other organs, but it must be able to take every configuration of the
    portfolio: ConfigError otherwise.
    """
    place = find_start(folder)
    run = MetaRun.load(place)
    candidates = [
        Candidate(Configuration(entry["picks"]), entry["relative_seconds"], entry["gain"]) for entry in entries_of(table, made)
    ]
    for candidate in candidates:
        try:
            candidate.configuration.apply(run, run.settings.adapt, run.settings.plan.of_adapt())
        except ConfigError as error:
            raise ConfigError(f"--into {folder}: the start cannot take {candidate.configuration.name}: {error}") from error
    about = {"datasets": list(table.datasets), "draws": len({draw for _, draw in table.tasks}), "scans": int(rows[0]["shots"])}
    about |= {key: sorted({str(row[key]) for row in rows}) for key in ("steps", "checkpoint", "code")}
    return write_portfolio(place, run.settings.space.name, candidates, about)


def text_of(table: Table, made: Portfolio, left: Sequence[LeftOut], gains: Array, size: int, checkpoint: str) -> str:
    """Return the page's text."""
    worth = over_tasks(table, gains)
    hindsight = over_tasks(table, best_of(table, range(len(table.configurations))) - table.dice[:, 0])
    own = over_tasks(table, best_of(table, made.members) - table.dice[:, 0])
    clear = "The interval excludes zero." if worth.low > 0 else "The interval includes zero."
    sizes = [
        {"configurations": number, "gain on a left-out data set": interval.text()}
        for number, interval in enumerate(worth_by_size(table, size), start=2)
    ]
    parts = [
        "# A portfolio of configurations\n\n"
        "Written by `metanas-med study portfolio --report` from the cells of [scores.md](scores.md). A portfolio is a short list "
        "of configurations for `adapt --minutes` to try. The default comes first. Then comes, one after another, what raises "
        "the Dice of the best of the list most.",
        f"## Result\n\nThe best of a portfolio of at most {size} gains {worth.text()} Dice over the default on a data set that "
        f"did not make it. {clear} All {len(table.configurations)} configurations would gain {hindsight.text()}. On the data "
        f"sets that made it, the portfolio gains {own.text()}.",
        "## The portfolio\n\n*Added*: how much it raises the best of the list. *Gain*: its own, over the default. *Time of a "
        f"step* is in units of the default's.\n\n{markdown_table(_shown(table, made))}",
        f"## Leave one data set out\n\n{markdown_table(_left_out(table, left))}",
        f"## Size\n\n{markdown_table(sizes)}",
        "## How it was measured\n\n```\nmetanas-med study portfolio --start RUN --cache CACHE --out runs/choose\n"
        "metanas-med study portfolio --report --out runs/choose --results docs/results --into START\n```\n\n"
        "- The best of a list is chosen by one run and valued by a second one, in both directions. So noise does not pay.\n"
        "- These gains assume that the best of the list is found. `adapt --minutes` has to find it from the support alone.\n"
        f"- A configuration that adds less than {LEAST_GAIN:g} is left out.\n"
        "- Intervals: 95 %, data sets and draws resampled.\n"
        f"- Data sets: {', '.join(table.datasets)}. Start: {checkpoint}.",
    ]
    return wrapped("\n\n".join(part.rstrip() for part in parts) + "\n")


def _shown(table: Table, made: Portfolio) -> list[dict[str, Any]]:
    return [
        {
            "configuration": entry["configuration"],
            "added": f"{entry['added']:+.3f}" if entry["rank"] else "",
            "gain": over_tasks(table, table.gains[:, member]).text() if member else "",
            "time of a step": f"{entry['relative_seconds']:.2f}",
        }
        for entry, member in zip(entries_of(table, made), made.members, strict=True)
    ]


def _left_out(table: Table, left: Sequence[LeftOut]) -> list[dict[str, Any]]:
    return [
        {
            "left out": each.dataset,
            "portfolio of the others": "; ".join(table.configurations[member] for member in each.portfolio.members[1:]) or "none",
            "gain on what was left out": f"{each.gain:+.3f}",
        }
        for each in left
    ]
