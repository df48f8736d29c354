"""The page of the study: chosen supports against random ones, from ``annotate.csv`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.cover import METHODS
from ...files import write_text
from ...report.statistics import Margin, unpaired_margin
from ...report.tables import markdown_table
from ..grid.published import rows_to_show

Row = dict[str, Any]


def write_report(out: Path, notes: str = "") -> Path:
    """Return the path of ``annotate.md`` after writing it from ``out``/annotate.csv; DataError where that has no rows.

    ``notes`` are kept in ``out``/annotate_notes.md. Without new ones the page shows the kept ones.
    """
    rows = rows_to_show(out / "annotate.csv")
    kept = out / "annotate_notes.md"
    if notes.strip():
        write_text(kept, f"{notes.strip()}\n")
    elif kept.exists():
        notes = kept.read_text()
    shots, steps, alpha = (", ".join(sorted({r[key] for r in rows})) for key in ("shots", "steps", "alpha"))
    parts = [
        "# Which scans to annotate\n\nWritten by `metanas-med study annotate --run RUN DATASET... --out docs/results` from "
        f"`annotate.csv`, whose rows name code revision, seed, hashed support and query, and checkpoint. Supports of {shots} "
        f"scans are chosen from the images alone, or at random, among the scans that are no query cases. {steps} steps, alpha "
        f"{alpha}; mean Dice of whole volumes over query cases and organs.\n\n"
        "Each random draw has its own support and seed. A chosen support is the same for several seeds, so its worst and best "
        "show the effect of the seed. *Above*: how many random draws are below the mean of the chosen support. *Minus random*: "
        "the difference of means with a 95 % interval that resamples draws, seeds and query cases. *Distance*: from the "
        f"candidates to the nearest support scan, mean and largest (for random draws their means).\n\n{notes.strip()}\n"
    ]
    for place in sorted({(r["dataset"], r["organ"]) for r in rows}):
        mine = [r for r in rows if (r["dataset"], r["organ"]) == place]
        parts.append(f"\n## {place[0]}, {place[1]}\n\n{markdown_table(study_table(mine))}\n{_verdict(mine)}\n")
    parts.append(f"\nCode: {', '.join(sorted({r['code'] for r in rows}))}.\n")
    write_text(out / "annotate.md", "".join(parts))
    return out / "annotate.md"


def study_table(rows: Sequence[Row]) -> list[Row]:
    """Return one line for each way of choosing, from the rows of one data set and organ."""
    random, table = dice_table(rows, "random"), []
    for choice in ("random", *METHODS):
        values = dice_table(rows, choice)
        if not len(values):
            continue
        means = values.mean(1)
        own = [r for r in rows if r["choice"] == choice]
        away, farthest = (np.mean([float(r[key]) for r in own]) for key in ("mean_distance", "farthest"))
        chosen = choice != "random" and len(random) > 0
        table.append(
            {
                "choice": choice,
                "draws or seeds": len(values),
                "mean": float(means.mean()),
                "worst": float(means.min()),
                "best": float(means.max()),
                "above": f"{int((random.mean(1) < means.mean()).sum())} of {len(random)}" if chosen else "",
                "minus random": _text(unpaired_margin(values, random)) if chosen else "",
                "distance": f"{away:.2f}, {farthest:.2f}",
            }
        )
    return table


def dice_table(rows: Sequence[Row], choice: str) -> NDArray[np.float64]:
    """Return Dice (draws or seeds, cases) of the rows of one way of choosing."""
    own = {(int(r["seed"]), int(r["case"])): float(r["dice"]) for r in rows if r["choice"] == choice}
    seeds, cases = (sorted({key[axis] for key in own}) for axis in (0, 1))
    return np.array([[own[seed, case] for case in cases] for seed in seeds])


def _text(margin: Margin) -> str:
    return f"{margin.mean:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}]"


def _verdict(rows: Sequence[Row]) -> str:
    """Return which choices differ from random ones beyond noise, and whether a better cover came with more Dice."""
    random, lines = dice_table(rows, "random"), []
    for choice in METHODS:
        values = dice_table(rows, choice)
        if not len(values) or not len(random):
            continue
        margin = unpaired_margin(values, random)
        side = "above" if margin.mean > 0 else "below"
        noise = "beyond" if margin.beyond_noise else "within"
        lines.append(f"{choice} is {abs(margin.mean):.3f} {side} random draws, {noise} noise.")
    if len(random) > 2:
        away = {int(r["seed"]): float(r["mean_distance"]) for r in rows if r["choice"] == "random"}
        distance = np.array([away[seed] for seed in sorted(away)])
        if distance.std() > 0 and random.mean(1).std() > 0:
            lines.append(
                f"Over random draws, mean distance and Dice correlate by {np.corrcoef(distance, random.mean(1))[0, 1]:+.2f}."
            )
    return " ".join(lines)
