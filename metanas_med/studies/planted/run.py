"""Ten planted problems a case: how often the search finds all operations, and what it says where they imitate each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...engine.checkpoint import code_revision
from ...files import read_csv, write_csv, write_text
from ...learner.evidence import NOT_APART
from ...report.tables import markdown_table
from .problem import ALIKE, APART, Problem, search

#: cases of the study by name
CASES = {"options that can be told apart": APART, "options that imitate each other": ALIKE}


def planted(out: Path, seeds: int = 10) -> Path:
    """Return the path of ``out``/planted.md after searching ``seeds`` planted problems of each case.

    Rows of ``planted.csv`` are written after each search; those of the same code are kept.
    """
    torch.set_num_threads(1)
    path, code = out / "planted.csv", code_revision()
    rows: list[dict[str, Any]] = [dict(r) for r in (read_csv(path) if path.is_file() else []) if r["code"] == code]
    done = {(r["case"], int(r["seed"])) for r in rows}
    for case, candidates in CASES.items():
        for seed in range(seeds):
            if (case, seed) in done:
                continue
            found = search(Problem(candidates), seed)
            undecided = set(found.report.undecided or ())
            rows += [
                {
                    "case": case,
                    "seed": seed,
                    "row": row,
                    "planted": option,
                    "found": found.found[row],
                    "probability": round(found.probability[row], 3),
                    "told_apart": int(row not in undecided),
                    "seconds": round(found.report.seconds, 1),
                    "code": code,
                }
                for row, option in found.planted.items()
            ]
            write_csv(path, rows)
    write_text(out / "planted.md", page(rows))
    return out / "planted.md"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    table, lines = [], []
    for case, candidates in CASES.items():
        mine = [r for r in rows if r["case"] == case]
        seeds = sorted({int(r["seed"]) for r in mine})
        right = [all(r["found"] == r["planted"] for r in mine if int(r["seed"]) == seed) for seed in seeds]
        apart = sum(int(r["told_apart"]) for r in mine)
        mean = sum(float(r["probability"]) for r in mine) / max(len(mine), 1)
        table.append(
            {
                "case": case,
                "options": ", ".join(candidates),
                "all rows found": f"{sum(right)} of {len(right)} seeds",
                "rows found": f"{sum(r['found'] == r['planted'] for r in mine)} of {len(mine)}",
                "rows told apart": f"{apart} of {len(mine)}",
                "mean largest probability": f"{mean:.2f}",
            }
        )
        if candidates == ALIKE:
            lines.append(f"- {case}: in {len(mine) - apart} of {len(mine)} rows the report says: {NOT_APART}.")
        else:
            lines.append(f"- {case}: the search finds every planted operation in {sum(right)} of {len(right)} seeds.")
    return (
        "# A planted problem\n\n"
        "Written by `metanas-med study planted --out docs/results` from `planted.csv`. A network with one known operation an "
        "edge labels white noise. The search starts with fresh kernels and equal alphas.\n\n"
        + "\n".join(lines)
        + f"\n\n{markdown_table(table)}\n"
    )
