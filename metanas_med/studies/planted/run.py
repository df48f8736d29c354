"""Planted problems of both cases: how often each learner finds all operations, and what it says where they imitate each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...engine.checkpoint import code_revision
from ...errors import ConfigError, suggest
from ...files import read_csv, write_csv, write_text
from ...learner.evidence import NOT_APART
from ...report.tables import markdown_table
from .learners import CHANGES, DEFAULT, LEFT_OUT, has_alphas, learner_names, problem_of, settings_of
from .problem import ALIKE, APART, Found, Problem, random_found, search

DIFFERENT, IMITATE = "different operations", "operations that can imitate each other"
#: problems of the study by the name of their case
CASES = {DIFFERENT: Problem(APART, APART), IMITATE: Problem(ALIKE, ("conv111",))}
#: the row of alphas that are drawn, not learned
RANDOM = "random alphas"


def planted(out: Path, seeds: int = 10, cases: Mapping[str, Problem] = CASES, learners: Sequence[str] | None = None) -> Path:
    """Return the path of ``out``/planted.md after searching ``seeds`` planted problems of each case by each learner on one thread.

    ``learners``: names of presets, by default all that a planted problem can judge. Rows of ``planted.csv`` are written after each
    search; those of the same code are kept. ConfigError for an unknown learner.
    """
    known = learner_names()
    for name in learners or ():
        if name not in known:
            raise ConfigError(f"learners: no learner of this study is called {name!r}; {suggest(name, known)}")
    path, code, threads = out / "planted.csv", code_revision(), torch.get_num_threads()
    rows: list[dict[str, Any]] = [dict(r) for r in (read_csv(path) if path.is_file() else []) if r["code"] == code]
    done = {(r["case"], r.get("learner"), int(r["seed"])) for r in rows}
    torch.set_num_threads(1)
    try:
        for case, problem in cases.items():
            for seed in range(seeds):  # learners of one seed share its problem
                for learner in _learners_of(case, learners or known):
                    if (case, learner, seed) not in done:
                        found = _found(problem, learner, seed)
                        rows += [{"case": case, "learner": learner, "seed": seed, **row, "code": code} for row in _rows(found)]
                        write_csv(path, rows)
    finally:
        torch.set_num_threads(threads)
    return report(out)


def _learners_of(case: str, names: Sequence[str]) -> list[str]:
    if case != IMITATE:
        return [*names, RANDOM]
    return [name for name in names if has_alphas(name)]


def _found(problem: Problem, learner: str, seed: int) -> Found:
    """Return what a learner finds; its weights warm up as it says, where operations differ."""
    if learner == RANDOM:
        return random_found(problem, seed)
    own = problem_of(learner, problem)
    if not set(problem.planted) <= set(problem.candidates):  # kernels are compared after they were trained alike
        own = replace(own, warm_up=problem.warm_up)
    return search(own, seed)


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
    names = list(dict.fromkeys(r["learner"] for r in rows))
    apart = [_line(name, [r for r in rows if r["case"] == DIFFERENT and r["learner"] == name]) for name in names]
    alike = [_undecided(name, [r for r in rows if r["case"] == IMITATE and r["learner"] == name]) for name in names]
    problem, other = CASES[DIFFERENT], CASES[IMITATE]
    short = [line["learner"] for line in apart if line and line["learner"] != RANDOM and line["right"] < 0.9]
    lines = [{key: value for key, value in line.items() if key != "right"} for line in apart if line]
    text = (
        "# A planted problem\n\n"
        "Written by `metanas-med study planted --out docs/results` from `planted.csv`.\n\n"
        f"A chain of {problem.num_edges} edges with one known operation an edge labels {problem.num_scans} volumes of white noise, "
        f"{problem.side}^3 voxels\neach. An edge reads the sum of the stem's feature and the feature before it. The mirrored feature "
        "of the stem is added\nto its output, then comes the norm. The search gets the volumes, the labels, the stem and the head. "
        f"Its alphas\nstart equal. It takes {settings_of(DEFAULT).steps} steps. Before, weights train for {problem.warm_up} steps "
        "with equal alphas, unless the table says\notherwise. Learners are the presets of `configs/learners`; "
        f"`{DEFAULT}` is the default of `adapt`. Changes are in\nthe table. They were chosen on seeds from 100, which are not in it.\n\n"
        f"## Different operations\n\nOptions: {', '.join(problem.candidates)}. No weight can turn one into another.\n\n"
        f"{markdown_table(lines)}\n"
    )
    if short:
        text += "Below nine of ten: " + ", ".join(f"`{name}`" for name in short) + ".\n" + _reasons(short)
    text += "".join(f"Left out: `{name}`, because {why}.\n" for name, why in LEFT_OUT.items())
    text += (
        f"\n## Operations that can imitate each other\n\nOptions: {', '.join(other.candidates)}. Planted: "
        f"{', '.join(other.planted)}. Every option contains it. Equal probabilities\nare {1 / len(other.candidates):.2f}. "
        "Learners whose alphas do not move are left out.\n\n"
        f"{markdown_table([line for line in alike if line])}\n"
        "The last column counts the edges for which the search's report says so.\n"
        f"Alphas were to stay near equal. Where a probability is above {_FAR}, they do not: which option leads then differs between\n"
        "edges, because kernels start at random.\n\n"
        "Limit: if the search must learn the head too, features of different steps can replace each other. The planted\n"
        "answer is then not unique, and trials did not find all edges.\n"
    )
    return text


#: a largest probability from which alphas are no longer near equal
_FAR = 0.5


#: why a learner misses planted operations, after two changes of approach
REASONS = {
    "gdas": (
        "`gdas`: the gradient of the one option that runs says only whether more of it would help. It is mixed with the noise of\n"
        "the other edges' draws, and prefers the identity, which passes on most of the features before. Approaches tried: a sum\n"
        "before the norm (without it the gradient is zero), and alphas that step with the weights on all volumes.\n"
    ),
}


def _reasons(names: Sequence[str]) -> str:
    return "".join(REASONS.get(name, "") for name in names)


def _line(learner: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a learner's line where operations differ; None without rows."""
    if not rows:
        return None
    right = {int(r["seed"]): True for r in rows}
    for r in rows:
        right[int(r["seed"])] &= r["found"] == r["planted"]
    return {
        "learner": learner,
        "changes": CHANGES[learner].reason if learner in CHANGES else "",
        "all edges found": f"{sum(right.values())} of {len(right)} seeds",
        "edges found": f"{sum(r['found'] == r['planted'] for r in rows)} of {len(rows)}",
        "largest probability, least to most": _tops(rows) if learner == RANDOM or has_alphas(learner) else "",
        "right": sum(right.values()) / len(right),
    }


def _undecided(learner: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a learner's line where operations imitate each other; None without rows."""
    if not rows:
        return None
    return {
        "learner": learner,
        "largest probability, least to most": _tops(rows),
        f"above {_FAR}": f"{sum(float(r['probability']) > _FAR for r in rows)} edges",
        NOT_APART: f"{sum(not int(r['told_apart']) for r in rows)} of {len(rows)} edges",
    }


def _tops(rows: Sequence[Mapping[str, Any]]) -> str:
    tops = [float(r["probability"]) for r in rows]
    return f"{min(tops):.2f} to {max(tops):.2f}"
