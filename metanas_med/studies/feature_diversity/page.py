"""The page of the study, from ``feature_diversity.csv`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_text
from ...report.tables import markdown_table
from ..grid.published import rows_to_show

#: scans in a support, and query scans
SHOTS, QUERIES = 5, 8


def write_page(out: Path) -> Path:
    """Return the path of ``out``/feature_diversity.md after writing it from ``out``/feature_diversity.csv."""
    write_text(out / "feature_diversity.md", page(rows_to_show(out / "feature_diversity.csv")))
    return out / "feature_diversity.md"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    table = []
    for name, dataset, start in sorted(
        {(r["run"], r["held_out"], r["weights"]) for r in rows}, key=lambda k: (k[1], k[2] != "fresh", k[0])
    ):
        mine = [r for r in rows if (r["run"], r["held_out"], r["weights"]) == (name, dataset, start)]
        line = {"held out": dataset, "run": name, "weights": start, "features": int(mine[0]["features"])}
        for key, title in (("effective_number", "effective number"), ("dice_before_any_step", "Dice before any step")):
            values = [float(r[key]) for r in mine]
            line[title] = f"{np.mean(values):.3g} [{min(values):.3g}, {max(values):.3g}]"
        table.append(line)
    draws = len({r["draw"] for r in rows})
    return (
        "# Similar features\n\n"
        "Written by `metanas-med study feature-diversity NAME=RUN... --out docs/results` from `feature_diversity.csv`. Five "
        f"scans of a held-out data set, {draws} draws (in brackets the lowest and highest), {QUERIES} query scans. The "
        f"effective number is the effective rank of the features' correlations on sampled voxels.\n\n{markdown_table(table)}\n"
    )
