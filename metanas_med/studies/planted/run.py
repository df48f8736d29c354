"""Planted problems of both cases: how often the search finds all operations, and what it says where they imitate each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...engine.checkpoint import code_revision
from ...files import read_csv, write_csv, write_text
from ...learner.evidence import NOT_APART
from ...report.tables import markdown_table
from .problem import ALIKE, APART, Found, Problem, search

#: problems of the study by the name of their case
CASES = {
    "different operations": Problem(APART, APART),
    "operations that can imitate each other": Problem(ALIKE, ("conv111",)),
}


def planted(out: Path, seeds: int = 10, cases: Mapping[str, Problem] = CASES) -> Path:
    """Return the path of ``out``/planted.md after searching ``seeds`` planted problems of each case on one thread.

    Rows of ``planted.csv`` are written after each search; those of the same code are kept.
    """
    path, code, threads = out / "planted.csv", code_revision(), torch.get_num_threads()
    rows: list[dict[str, Any]] = [dict(r) for r in (read_csv(path) if path.is_file() else []) if r["code"] == code]
    done = {(r["case"], int(r["seed"])) for r in rows}
    torch.set_num_threads(1)
    try:
        for case, seed in [(case, seed) for case in cases for seed in range(seeds) if (case, seed) not in done]:
            found = search(cases[case], seed)
            rows += [{"case": case, "seed": seed, **row, "code": code} for row in _rows(found)]
            write_csv(path, rows)
    finally:
        torch.set_num_threads(threads)
    return report(out)


def report(out: Path) -> Path:
    """Return the path of ``out``/planted.md, written from ``out``/planted.csv alone."""
    write_text(out / "planted.md", page(read_csv(out / "planted.csv")))
    return out / "planted.md"


def _rows(found: Found) -> list[dict[str, Any]]:
    undecided = set(found.report.undecided or ())
    return [
        {
            "row": row,
            "planted": option,
            "found": found.found[row],
            "probability": round(found.probability[row], 3),
            "told_apart": int(row not in undecided),
            "seconds": round(found.report.seconds, 1),
        }
        for row, option in found.planted.items()
    ]


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    table = []
    for case, problem in CASES.items():
        mine = [r for r in rows if r["case"] == case]
        right = {int(r["seed"]): True for r in mine}
        for r in mine:
            right[int(r["seed"])] &= r["found"] == r["planted"]
        tops = [float(r["probability"]) for r in mine]
        offered = set(problem.planted) <= set(problem.candidates)
        line = {
            "case": case,
            "options": ", ".join(problem.candidates),
            "planted": "one of them" if offered else ", ".join(problem.planted),
            "all edges found": f"{sum(right.values())} of {len(right)} seeds" if offered else "",
            "edges found": f"{sum(r['found'] == r['planted'] for r in mine)} of {len(mine)}" if offered else "",
            "equal probabilities": f"{1 / len(problem.candidates):.2f}",
            "largest probability, least to most": f"{min(tops):.2f} to {max(tops):.2f}" if tops else "",
            NOT_APART: f"{sum(not int(r['told_apart']) for r in mine)} of {len(mine)} edges",
        }
        table.append(line)
    problem = CASES["different operations"]
    return (
        "# A planted problem\n\n"
        "Written by `metanas-med study planted --out docs/results` from `planted.csv`.\n\n"
        f"A chain of {problem.num_edges} edges with one known operation an edge labels {problem.num_scans} volumes of white "
        "noise. Each edge reads the\nsum of the stem's feature and the feature before it. The search gets the volumes, the labels, "
        "the stem and the\nhead. Its alphas start equal, and kernels, where options have some, are random. "
        f"Weights train for {problem.warm_up} steps.\nThen the task learner `darts` searches for {problem.learner.steps} steps "
        "(softmax, single level, argmax).\n\n"
        f"{markdown_table(table).strip()}\n\n"
        "The last column counts the edges for which the search's report says so.\n\n"
        "Limit: if the search must learn the head too, features of different steps can replace each other. The planted\n"
        "answer is then not unique, and trials did not find all edges.\n"
    )
