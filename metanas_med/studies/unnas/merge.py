"""Cells and paces of another run of the same grid, taken over from its published results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engine.settings import load_settings
from ...errors import ConfigError
from ...files import write_json
from ...resources import find_resource
from ..grid.lock import alone_in
from ..grid.published import Merged, published_rows, take_cells
from .cells import chosen, grid
from .guards import check_made_alike, check_same_scans, check_settings, check_steps, pace_of_row, place_of
from .run_cell import COLUMNS, pace_path
from .settings import UnnasSettings

#: the published settings that a run's cells were made with, and their paces
PUBLISHED_SETTINGS, PUBLISHED_PACES = "unnas_settings.json", "unnas_pace.csv"
PACE_COLUMNS = ("architecture", "hash", "task", "step_seconds", "machine", "code")


def merge(config: str, overrides: Sequence[str], folder: Path) -> Merged:
    """Take the cells published in ``folder`` that the run has not made itself.

    ``folder`` holds ``unnas.csv``, ``unnas_settings.json`` and ``unnas_pace.csv``. Raises ConfigError where files are
    missing, the cells were made with other settings or paces, or a cell occurs twice. Nothing is taken then.
    """
    settings = load_settings(find_resource("configs", config), overrides, UnnasSettings)
    rows = published_rows(folder / "unnas.csv", COLUMNS)
    offered = {place_of(row): row for row in rows}
    if len(offered) < len(rows):
        raise ConfigError(f"{folder / 'unnas.csv'}: {len(rows) - len(offered)} cell(s) occur twice. Publish them again.")
    check_made_alike(settings, folder / PUBLISHED_SETTINGS)
    check_same_scans(rows, folder / "unnas.csv")
    published = published_rows(folder / PUBLISHED_PACES, PACE_COLUMNS)
    check_steps(settings, rows, published, folder / "unnas.csv")
    keys = {cell: (str(cell.number), cell.hash, cell.task, str(cell.seed)) for cell in chosen(settings)}
    paces = {pace_of_row(row): row for row in published}
    with alone_in(Path(settings.out)):
        check_settings(settings)
        _take_paces(settings, paces, folder)
        return take_cells(settings, {cell: {"row": offered[key]} for cell, key in keys.items() if key in offered}, len(offered))


def _take_paces(settings: UnnasSettings, offered: Mapping[tuple[str, ...], Mapping[str, str]], folder: Path) -> None:
    """Write the paces that another run measured, all or none; ConfigError where this run has measured another value."""
    new: dict[Path, dict[str, Any]] = {}
    for cell in grid(settings):
        row = offered.get((str(cell.number), cell.hash, cell.task))
        if row is None:
            continue
        path, pace = pace_path(settings, cell), {**row, "architecture": cell.number, "step_seconds": float(row["step_seconds"])}
        if path.exists() and json.loads(path.read_text())["step_seconds"] != pace["step_seconds"]:
            raise ConfigError(
                f"{path} is not the pace that {folder} has: trainings of one architecture would differ in steps. Merge into an "
                "empty --out first."
            )
        new[path] = pace
    for path, pace in new.items():
        write_json(path, pace)
