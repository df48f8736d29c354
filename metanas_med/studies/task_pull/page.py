"""The page of the study, from ``task_pull.csv.xz`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...engine.metrics import bootstrap_interval
from ...files import write_text
from ...report.tables import markdown_table
from ..grid.published import rows_to_show

META, FRESH = "meta-learned", "fresh"
#: by name: where a move starts, and what moves the weights
MOVES = {
    "meta-learned, adapted": (META, "adapt"),
    "fresh, adapted": (FRESH, "adapt"),
    "meta-learned, by the task learner": (META, "learner"),
    "fresh, by the task learner": (FRESH, "learner"),
}
#: scans in a support, at most
SHOTS = 5
#: what the two adaptations of a pair have in common
KINDS = ("same scans, other patches", "same data set, other scans", "other data set, both of training", "training and held out")


def kind_of(row: Mapping[str, Any]) -> str | None:
    """Return what the two adaptations of a pair have in common, one of ``KINDS``; None for two held-out data sets."""
    if row["dataset_a"] == row["dataset_b"]:
        return KINDS[0] if row["draw_a"] == row["draw_b"] else KINDS[1]
    held = int(row["held_out_a"]) + int(row["held_out_b"])
    return (KINDS[2], KINDS[3], None)[held]


def of_dataset(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> float | None:
    """Return the mean cosine of the pairs of a kind that include the data set ``name``; None without such pairs."""
    found = [float(r["cosine"]) for r in rows if kind_of(r) == kind and name in (r["dataset_a"], r["dataset_b"])]
    return float(np.mean(found)) if found else None


def kept(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the share of a move's length that a mean over the training data sets keeps, and the share for unrelated moves.

    Moves count as equally long: the mean of N unit vectors with mean cosine c has the length sqrt((1 + (N - 1) c) / N).
    """
    pairs = [r for r in rows if kind_of(r) == KINDS[2]]
    number = len({r[f"dataset_{side}"] for r in pairs for side in "ab"})
    mean = float(np.mean([float(r["cosine"]) for r in pairs]))
    return float(np.sqrt(max(1 + (number - 1) * mean, 0.0) / number)), float(np.sqrt(1 / number))


def write_page(out: Path) -> Path:
    """Return the path of ``out``/task_pull.md after writing it from ``out``/task_pull.csv.xz."""
    write_text(out / "task_pull.md", page(rows_to_show(out / "task_pull.csv")))
    return out / "task_pull.md"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    names = sorted({r[f"dataset_{side}"] for r in rows for side in "ab"})
    held = sorted({r[f"dataset_{side}"] for r in rows for side in "ab" if int(r[f"held_out_{side}"])})
    summary, by_set = [], []
    for move in MOVES:
        mine = [r for r in rows if r["move"] == move]
        norms = [float(r[f"norm_{side}"]) for r in mine for side in "ab"]
        line: dict[str, Any] = {"move": move, "length of a move": f"{np.mean(norms):.2f}"}
        for kind in KINDS:
            values = [v for n in names if (v := of_dataset(mine, kind, n)) is not None and (kind != KINDS[3] or n in held)]
            low, high = bootstrap_interval(values)
            line[kind] = f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"
        whole, chance = kept(mine)
        line["a mean over training sets keeps"] = f"{whole:.3f} (unrelated: {chance:.3f})"
        summary.append(line)
    for name in names:
        entry: dict[str, Any] = {"data set": f"{name} (held out)" if name in held else name}
        for move, title in zip(list(MOVES)[::2], ("adapted", "learner"), strict=True):
            mine = [r for r in rows if r["move"] == move]
            for kind in (*KINDS[:2], KINDS[3] if name in held else KINDS[2]):
                value = of_dataset(mine, kind, name)
                what = "training sets" if kind in KINDS[2:] else kind.split(", ")[1]
                entry[f"{title}: {what}"] = "" if value is None else f"{value:.3f}"
        by_set.append(entry)
    about, codes = rows[0], ", ".join(sorted({r[f"code_{side}"] for r in rows for side in "ab"}))
    return (
        "# In which directions tasks move the weights\n\nWritten by `metanas-med study task-pull --run RUN --out docs/results` "
        "from `task_pull.csv.xz`: cosines between moves of the weights of stem and body, with all labels of a data set, up to "
        f"{SHOTS} scans and frozen alpha. Weights are moved by the benchmark's adaptation, or by the run's task learner, whose "
        f"moves Reptile averages. One meta-training (checkpoint {about['checkpoint']}, held out: {', '.join(held)}), one set "
        "of fresh weights. Intervals are over data sets; pairs share data sets, so the intervals are too narrow. Code: "
        f"{codes}.\n\n{markdown_table(summary)}\n\n"
        "By data set, from the meta-learned state (*training sets*: with the other data sets of "
        f"training):\n\n{markdown_table(by_set)}\n"
    )
