"""A tiny benchmark's settings, rows and cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metanas_med.files import write_csv, write_json
from metanas_med.studies.benchmark.cells import Cell
from metanas_med.studies.benchmark.report import write_report
from metanas_med.studies.benchmark.run_cell import COLUMNS
from metanas_med.studies.benchmark.settings import BenchmarkSettings
from metanas_med.studies.grid.cells import cell_path

GROUP = {
    "name": "pair",
    "hold_out": ["Phantom06_Pair"],
    "data": [{"dataset": "Phantom06_Pair", "organs": ["left", "right"]}],
}
GENOTYPE = {"format": 2, "space": {"name": "unet", "base_width": 2, "levels": 1}, "picks": {}}
METHODS_HERE = ["metanas", "metanas-frozen", "reptile", "joint", "scratch", "scratch-10x"]


def write_config(settings: BenchmarkSettings, path: Path) -> str:
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return str(path)


def made_up_rows(gain: float, shots: int = 5) -> list[dict[str, Any]]:
    """Rows of two organs, three draws and four cases, with ``gain`` Dice of ours over the others; the first case at all steps."""
    random, rows = np.random.default_rng(0), []
    level = {"metanas": gain, "metanas-frozen": 0.0, "scratch": -0.02, "nnunet-30min": 0.2, "scratch-plain": -0.3}
    for organ in ("left", "right"):
        for draw in range(3):
            for case in range(4):
                base = 0.7 + 0.05 * random.normal()
                for method, more in level.items():
                    lengths = {"metanas": (0, 20, 100), "nnunet-30min": (900,)}.get(method, (0, 20, 30, 100, 45))
                    for steps in lengths:
                        if (steps == 100 and case) or (method == "nnunet-30min" and draw):
                            continue
                        dice = base + more + 0.002 * min(steps, 50) + 0.005 * random.normal()
                        evaluations = steps + (10 if method == "metanas" and steps else 0)
                        budget = {45: "x1", 900: "30 min"}.get(steps, "")
                        seconds = 1800 if budget == "30 min" else 30 if budget or method == "metanas" else steps / 2
                        rows.append(
                            dict.fromkeys(COLUMNS, "")
                            | {"held_out": "pair", "development": 0, "dataset": "Phantom06_Pair", "target": "all", "organ": organ}
                            | {"method": method, "shots": shots, "steps": steps, "draw": draw, "seed": 0, "case": f"case{case}"}
                            | {"dice": dice, "nsd": dice, "hd95_mm": 3.0, "seconds": seconds, "code": "x", "device": "cpu"}
                            | {"gradient_evaluations": evaluations, "budget": budget}
                            | ({} if "nnunet" in method else {"parameters": 1000, "multiply_adds": 10**9})
                        )
    return rows


def report_of(settings: BenchmarkSettings, rows: list[dict[str, Any]]) -> str:
    write_csv(Path(settings.results) / "results.csv", rows, COLUMNS)
    here = {"shots": (5,), "methods": ("metanas", "metanas-frozen", "scratch", "nnunet-30min", "scratch-plain")}
    return write_report(Path(settings.results), settings.model_copy(update=here)).read_text()


def made_up_cell(settings: BenchmarkSettings, cell: Cell, code: str = "x") -> None:
    """Write the file of a cell, with a row an organ."""
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"held_out": cell.group, "development": 0, "dataset": cell.dataset, "target": cell.target, "organ": organ, "case": "a"}
        | {
            "method": cell.method,
            "shots": cell.shots,
            "steps": cell.steps,
            "budget": cell.time,
            "draw": cell.draw,
            "seed": cell.seed,
        }
        | {
            "dice": 0.512345,
            "nsd": 0.512345,
            "hd95_mm": 3.012345,
            "seconds": 9.0,
            "gradient_evaluations": cell.steps,
            "code": code,
            "device": "cpu",
            "checkpoint": f"{code}{'0' * 60}"[:16],
        }
        for organ in ("left", "right")
    ]
    for row in rows:
        del row["architecture"]  # as in older cells without this column
    write_json(cell_path(settings, cell), {"cell": {}, "rows": rows, "cell_seconds": 9.0, "report": {"genotype": GENOTYPE}})
