"""The page of ``study scores``, from ``scores.csv`` alone, and the CSV from the finished cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import write_csv, write_text
from ...report.tables import markdown_table
from ..grid.cells import read_cells
from ..grid.published import check_keeps, rows_to_show
from ..start.page import wrapped
from .judge import BELIEF, CAREFUL, PRIOR, Judged, by_configuration, judge
from .settings import ChooseSettings
from .table import Table, table_of
from .work import COLUMNS


def publish(settings: ChooseSettings) -> Path:
    """Return the path of ``results``/scores.md after writing it and scores.csv; without cells in ``out``, from the CSV alone."""
    folder, csv = settings.folder / "cells", settings.published / "scores.csv"
    records = read_cells(folder, sorted(path.name for path in folder.glob("*.json")))
    if records:
        write_rows(csv, records, [each.name for each in settings.choices])
    page = settings.published / "scores.md"
    write_text(page, text_of(rows_to_show(csv)))
    return page


def write_rows(path: Path, records: Sequence[Mapping[str, Any]], order: Sequence[str]) -> None:
    """Write the rows of the cells, configurations in ``order``; ConfigError where the CSV holds cells that would be lost."""
    place = {name: number for number, name in enumerate(order)}
    rows = sorted(
        (record["row"] for record in records),
        key=lambda r: (r["dataset"], r["draw"], place.get(r["configuration"], len(place)), r["configuration"]),
    )
    more = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    check_keeps(path, [{k: str(v) for k, v in row.items()} for row in rows], _place, "Report from the --out that made them.")
    write_csv(path, [{key: row.get(key, "") for key in (*COLUMNS, *more)} for row in rows], [*COLUMNS, *more])


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    return str(row["dataset"]), str(row["draw"]), str(row["configuration"]), str(row["checkpoint"])


def text_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    table = table_of(rows)
    judged = judge(table)
    parts = [
        "# Choosing a configuration from five scans\n\n"
        "Written by `metanas-med study scores --report` from `scores.csv`. Each configuration adapts from one start to the same "
        "supports. A score rates it from the support alone, without the scored scans.",
        _answer(judged),
        f"## Scores\n\n{_explained()}\n\n{_choices(judged)}",
        "## Configurations\n\nGain in Dice over the default, which shows its Dice instead. *Time of a step* is in units of the "
        f"default's.\n\n{markdown_table(by_configuration(table))}",
        _how(table, rows),
        _limits(table),
    ]
    return wrapped("\n\n".join(part.rstrip() for part in parts) + "\n")


def _answer(judged: Sequence[Judged]) -> str:
    scores = [each for each in judged if each.rank is not None or each.name == CAREFUL]
    best, hindsight = scores[0], judged[-1]
    clear = "The interval excludes zero." if best.gain.low > 0 else "The interval includes zero."
    return (
        f"## Result\n\nThe smallest regret has `{best.name}`: its choices gain {best.gain.text()} Dice over the default. {clear} "
        f"The best configuration in hindsight gains {hindsight.gain.text()}."
    )


def _explained() -> str:
    return (
        "- *Correlation*: Spearman's, with Dice on the scored scans, over configurations of the same data set and draw.\n"
        "- *Gain*: Dice of the choice minus that of the default. *Regret*: the best in hindsight minus the choice.\n"
        "- *The best in hindsight* is chosen by one run and valued by the other, in both directions. The best of one run would "
        "be too high.\n"
        f"- *{PRIOR}*: the mean standardised gain of the configuration on the other data sets. *With* it: the sum of both, each "
        "standardised.\n"
        f"- *{CAREFUL}*: the default, unless the best by `folds` leads it by one standard error over the left-out scans.\n"
        f"- *{BELIEF}*: the highest expected gain, from the other data sets and the left-out scans, weighted by precision.\n"
        "- Intervals: 95 %, data sets and draws resampled."
    )


def _choices(judged: Sequence[Judged]) -> str:
    rows = [
        {
            "chosen by": each.name,
            "correlation": "" if each.rank is None else each.rank.text(""),
            "gain": each.gain.text(),
            "regret": each.regret.text(),
            "seconds": "" if each.seconds is None else f"{each.seconds:.1f}",
        }
        for each in judged
    ]
    return markdown_table(rows)


def _how(table: Table, rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    draws = len({draw for _, draw in table.tasks})
    return (
        "## How it was measured\n\n```\nmetanas-med study scores --start RUN --cache CACHE --out runs/choose\n"
        "metanas-med study scores --report --out runs/choose --results docs/results\n```\n\n"
        f"- {len(table.configurations)} configurations, {len(table.datasets)} data sets, {draws} draws of {first['shots']} scans. "
        f"{first['num_query']} scored scans of other patients, the same for all draws.\n"
        f"- {first['steps']} steps, two runs with other seeds. One thread.\n"
        f"- Seconds are those of one configuration and one support.\n"
        f"- Start: {_list(rows, 'checkpoint')}. It has seen none of the data sets, nor a relative. Code: {_list(rows, 'code')}. "
        f"Processor: {_list(rows, 'machine')}."
    )


def _limits(table: Table) -> str:
    lines = [
        f"- {len(table.datasets)} data sets are few: intervals over them are rough.",
        "- The data sets are of development groups. What is chosen here must be judged on other organs.",
        "- The best score of many looks better than it is.",
    ]
    if table.incomplete:
        lines.append(f"- Incomplete, and left out: {'; '.join(table.incomplete)}.")
    return "## Limits\n\n" + "\n".join(lines)


def _list(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(r[key]) for r in rows if r[key]})) or "not noted"
