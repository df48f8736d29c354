"""The page of the study, from ``ablation.csv`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_text
from ...report.tables import markdown_table
from ..benchmark.compare import OURS, difference
from ..benchmark.tables import interval
from ..grid.published import rows_to_show
from .settings import OWN, SETTINGS, SHOTS


def write_page(out: Path) -> Path:
    """Return the path of ``out``/ablation.md after writing it from ``out``/ablation.csv."""
    write_text(out / "ablation.md", page(rows_to_show(out / "ablation.csv")))
    return out / "ablation.md"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    rows = [{**r, "method": OURS, "draw": int(r["draw"]), "seed": int(r["seed"]), "dice": float(r["dice"])} for r in rows]
    names = sorted({r["dataset"] for r in rows})
    own, table = [r for r in rows if r["setting"] == OWN], []
    for setting in SETTINGS:
        mine = [r for r in rows if r["setting"] == setting]
        if {r["dataset"] for r in mine} != set(names):
            continue  # a mean over fewer data sets is not comparable
        by_set = {n: float(np.mean([r["dice"] for r in mine if r["dataset"] == n])) for n in names}
        runs = list({(r["dataset"], r["draw"]): r for r in mine}.values())
        gaps = [float(r["gap_at_switch"]) for r in runs if r["gap_at_switch"] != ""]
        line: dict[str, Any] = {"setting": setting} | {n: f"{dice:.3f}" for n, dice in by_set.items()}
        line["draws"] = str(len({r["draw"] for r in mine}))
        line["mean"] = f"{np.mean([*by_set.values()]):.3f}"
        line["difference"] = "" if setting == OWN else interval(difference(mine, own))
        line["other architecture"] = f"{sum(int(r['moved']) for r in runs)} of {len(runs)}" if gaps else ""
        line["gap at the switch"] = f"{np.mean(gaps):.3f}" if gaps else ""
        line["processor seconds"] = f"{np.mean([float(r['processor_seconds']) for r in runs]):.1f}"
        table.append(line)
    draws, cases = len({r["draw"] for r in rows}), max(len({r["case"] for r in rows if r["dataset"] == n}) for n in names)
    about = {key: ", ".join(sorted({r[key] for r in rows})) for key in ("checkpoint", "code")}
    return (
        "# Choices of the adaptation\n\nWritten by `metanas-med study ablation RUN... --out docs/results` from `ablation.csv`. "
        f"Mean Dice from {SHOTS} scans, after 20 steps unless the name says otherwise, of all labels at once; {draws} draw(s), "
        f"{cases} query scans. Each data set of the benchmark's development groups is adapted to from a meta-training that "
        "held it out, with all related data sets.\n\n"
        "*difference*: from the first line, on the draws that both have, with equal weight for each data set and 95 % "
        "intervals (draws and cases resampled; they do not cover variance between meta-trainings). *other architecture*: "
        "adaptations whose architecture differs from the meta-learned one. *gap at the switch*: Dice on the support's views "
        f"that the discrete network loses. Meta-trained states: {about['checkpoint']}. Code: "
        f"{about['code']}.\n\n{markdown_table(table)}\n"
    )
