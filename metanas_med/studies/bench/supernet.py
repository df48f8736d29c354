"""What a supernet costs and what it gains. All figures of the page come from CSV files of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import read_csv, write_csv, write_text
from ...report.statistics import paired_margin
from ...report.tables import markdown_table
from .dice import DiceBench, dice_at_equal_cost
from .step import MEMORY_GOAL, TIME_GOAL, default_sizes, measure_steps

Row = dict[str, Any]
STEP_CSV, DICE_CSV, PAGE = "supernet_step.csv", "supernet_dice.csv", "supernet.md"
REPETITIONS, QUICK_REPETITIONS = 9, 3


def bench_supernet(out: Path, quick: bool = False) -> dict[str, list[Row]]:
    """Return the tables of the supernet's cost, and unless ``quick`` of Dice at equal multiply-adds, by title.

    Writes ``supernet_step.csv``, ``supernet_dice.csv`` and ``supernet.md`` to ``out``. Takes six to nine minutes on one core,
    and about two with ``quick``.
    """
    out = Path(out)
    if not quick:  # first, because it trains by the clock and nothing is warmed up yet for any contender
        write_csv(out / DICE_CSV, dice_at_equal_cost(out, DiceBench()))
    write_csv(out / STEP_CSV, measure_steps(default_sizes(), QUICK_REPETITIONS if quick else REPETITIONS))
    return report(out)


def report(out: Path) -> dict[str, list[Row]]:
    """Return the tables after writing ``supernet.md`` from the CSV files in ``out`` alone."""
    steps = _read_rows(out / STEP_CSV)
    tables = {"One training step": step_table(steps), "Goals": goal_table(steps), "Device settings": format_table(steps)}
    dice = _read_rows(out / DICE_CSV) if (out / DICE_CSV).exists() else []
    if dice:
        tables["Dice at equal multiply-adds"] = dice_table(dice)
    write_text(out / PAGE, _page(tables, steps, sorted({str(row["code"]) for row in [*steps, *dice]})))
    return tables


def _read_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file, numbers as numbers and empty cells as None."""
    return [{key: _number(value) for key, value in row.items()} for row in read_csv(path)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def step_table(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each size, precision and network in the device's own format."""
    own = rows[0]["format"]
    return [
        {
            "size": row["size"],
            "precision": row["precision"],
            "network": row["network"],
            "ms": 1000 * row["seconds"],
            "time ratio": row["time_ratio"],
            "10 % to 90 %": f"{row['time_ratio_low']:.2f} to {row['time_ratio_high']:.2f}",
            "activations MB": row["activation_mb"],
            "activations ratio": row["activation_ratio"],
            "step MB": row["step_mb"],
            "step ratio": row["step_memory_ratio"],
            "process MB": row["process_mb"],
            "process ratio": row["process_memory_ratio"],
        }
        for row in rows
        if row["format"] == own
    ]


def goal_table(rows: Sequence[Row]) -> list[Row]:
    """Return the merged supernet's ratios to the plain network, with their goals."""
    merged = [row for row in rows if row["network"] == "merged"]
    darts = {(row["size"], row["precision"]): row for row in rows if row["network"] == "darts"}
    measures = (
        ("time of a step", "time_ratio", TIME_GOAL),
        ("peak memory of the process", "process_memory_ratio", MEMORY_GOAL),
        ("memory that steps add", "step_memory_ratio", MEMORY_GOAL),
        ("stored activations", "activation_ratio", MEMORY_GOAL),
    )
    return [
        {
            "measure": measure,
            "size": row["size"],
            "precision": row["precision"],
            "merged / plain": row[key],
            "goal": goal,
            "reached": row[key] <= goal,
            "DARTS / plain": darts[row["size"], row["precision"]][key],
        }
        for measure, key, goal in measures
        for row in merged
        if row[key] is not None
    ]


def format_table(rows: Sequence[Row]) -> list[Row]:
    """Return the plain network's step in other formats and precisions, relative to float32 in the device's own format."""
    return [
        {
            "size": row["size"],
            "precision": row["precision"],
            "format": row["format"],
            "ms": 1000 * row["seconds"],
            "time ratio": row["time_to_plain_float32"],
        }
        for row in rows
        if row["network"] == "plain"
    ]


def dice_table(rows: Sequence[Row]) -> list[Row]:
    """Return mean Dice over supports, random architectures and scans, with its interval: a row for each start and contender."""
    table = []
    for start, name in dict.fromkeys((row["start"], row["contender"]) for row in rows):
        mine = [row for row in rows if row["start"] == start and row["contender"] == name]
        values = crossed(mine)
        margin = paired_margin({name: values})  # of the mean itself, not of a difference
        table.append(
            {
                "start": start,
                "architecture": name,
                "steps": mine[0]["steps"],
                "Dice": float(np.mean(values)),
                "95 % interval": f"{margin.low:.3f} to {margin.high:.3f}",
                "million multiply-adds": " to ".join(
                    dict.fromkeys(f"{f(row['multiply_adds'] for row in mine) / 1e6:.1f}" for f in (min, max))
                ),
                "thousand parameters": float(np.mean([row["parameters"] for row in mine])) / 1e3,
                "widths": f"{mine[0]['base_width']} to {mine[0]['max_width']}",
                "runs": len(mine),
            }
        )
    return table


def crossed(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Return Dice (random architectures of a support set, support sets, scans) of a contender's rows."""
    found = {(row["draw"], row["support"]): [float(v) for v in str(row["dice_by_scan"]).split()] for row in rows}
    draws, supports = ([*dict.fromkeys(key[axis] for key in found)] for axis in (0, 1))
    return np.array([[found[draw, support] for support in supports] for draw in draws])


def _page(tables: dict[str, list[Row]], steps: Sequence[Row], codes: Sequence[str]) -> str:
    first = steps[0]
    runs = "in one run" if len(codes) == 1 else "in runs of several revisions, which the rows name"
    parts = [
        f"# What the supernet costs, and what it gains\n\nWritten by `metanas-med study bench supernet` {runs}, from the CSV "
        f"files in this folder. Code {', '.join(codes)}; {first['device']}, {first['threads']} thread(s), torch "
        f"{first['torch']}.\n"
    ]
    texts = {
        "One training step": (
            "A step is forward pass, Dice plus cross-entropy, backward pass and Adam for all parameters, alphas included, on "
            f"batches of {first['batch']} views. *plain*: one 3x3x3 convolution on every edge. *merged*: the whole supernet, "
            "with its linear candidates merged into one kernel an edge, and separate dilation and pooling at the coarse "
            "levels. *darts*: the same candidates, each run and stored. The networks take turns. A time ratio is the median "
            f"over {first['repetitions']} turns of a step's time relative to the plain network in the same turn and precision, "
            f"by the {first['clock']} clock. *activations*: what the forward pass stores for the backward pass, without "
            "parameters. *step*: the growth of a fresh process's peak memory over three steps, above what it held with network "
            "and batch built: activations, gradients, Adam's moments, buffers of libraries. *process*: the whole peak of that "
            "process."
        ),
        "Goals": f"At most {TIME_GOAL} times the time and {MEMORY_GOAL} times the peak memory of the plain network.",
        "Device settings": "The plain network's step in other precisions and memory formats, relative to the first row of its size.",
        "Dice at equal multiply-adds": (
            "A phantom organ that no meta-training saw, 5 scans, whole held-back scans in their own geometry. Intervals "
            "resample support sets (each with its random architectures) and scans as a crossed design; with three support sets "
            "they are slightly too narrow. Multiply-adds are those of the network that segments, on one reference view.\n\n"
            "*searched*: the architecture that the search finds for the support set. *all alphas uniform*: the soft supernet "
            "with equal alphas. Merged, it costs one dense 3x3x3 convolution an edge and the candidates that cannot be merged; "
            "its widths are chosen so that it costs as much as the searched network. *3x3x3 only*: a fixed network, one 3x3x3 "
            "convolution on every edge, widths chosen in the same way. *random*: uniform draws from the search space with the "
            "searched network's cost.\n\n"
            "Start *meta-learned*: the three spaces were meta-trained for the same time. Random architectures take the weights "
            "of the searched one's supernet. *searched while adapting* is what `adapt` does: half of the same steps search, "
            "and the discrete network trains only in the other half. Start *fresh*: new weights, the same number of steps for "
            "all."
        ),
    }
    for title, rows in tables.items():
        parts.append(f"\n## {title}\n\n{texts[title]}\n\n{markdown_table(rows)}")
    return "".join(parts)
