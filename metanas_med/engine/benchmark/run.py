"""The command: predict the hours, meta-train what is needed, work through the cells, write the CSV and the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...config import BenchmarkSettings, load_settings
from ...data.cache import prepare
from ...errors import ConfigError
from ...files import write_csv
from ...resources import find_resource
from ..grid import processes, read_cells, work_through
from .cells import Cell, chosen, grid, predicted_hours, within_hours
from .guards import check_frozen
from .methods import method_named
from .pretrain import Pretraining, is_done, pretrain
from .run_cell import COLUMNS, cell_path, work


@dataclass(frozen=True)
class Outlook:
    """What a grid will do: cells chosen, of them done; meta-trainings to come; hours; methods left out."""

    cells: int
    done: int
    trainings: int
    hours: float
    whole_hours: float
    dropped: dict[str, str]  #: method -> why it is left out


def benchmark(
    config: str,
    overrides: Sequence[str] = (),
    *,
    report_only: bool = False,
    dry_run: bool = False,
    before: Callable[[Outlook], None] | None = None,
) -> Path | None:
    """Return the path of the report after running what is not done yet; None after a ``dry_run``. ``before`` is told the outlook.

    Raises ConfigError for unknown methods and for test groups under other settings than those of ``config``; DataError where a
    guard finds patients or related data sets on both sides.
    """
    path = find_resource("configs", config)
    frozen = load_settings(path, (), BenchmarkSettings)
    settings, dropped, whole = within_hours(load_settings(path, overrides, BenchmarkSettings))
    wanted = chosen(settings)
    if before:
        before(_outlook(settings, wanted, dropped, whole))
    if dry_run:
        return None
    if not report_only:
        _run(settings, frozen, wanted)
    from .report import write_report  # matplotlib is not needed before

    rows = _rows(settings)
    if not rows:
        raise ConfigError(f"{settings.out} holds no cell of {config} yet. Run the command without --report first.")
    results = Path(settings.results)
    write_csv(results / "results.csv", rows, COLUMNS)
    return write_report(results, settings, dropped)


def _run(settings: BenchmarkSettings, frozen: BenchmarkSettings, wanted: Sequence[Cell]) -> None:
    groups = {cell.group for cell in wanted}
    check_frozen(settings, frozen, [g for g in settings.groups if g.name in groups])
    roots = sorted(p for p in Path(settings.data).iterdir() if (p / "dataset.json").exists())
    prepare(roots, settings.run.cache)
    needed = _pretrainings(wanted)
    with processes(settings.workers) as pool:
        # the fixed U-Net is as large as the architecture that the search found
        for searches in (True, False):
            work_through(pool, pretrain, [(settings, p) for p in needed if (p[1] == "metanas") == searches])
        work_through(pool, work, [(settings, cell) for cell in wanted])


def _pretrainings(cells: Sequence[Cell]) -> list[Pretraining]:
    """Return the meta-trainings that ``cells`` rest on, in their order; the fixed U-Net's size rests on a search."""
    found: dict[Pretraining, None] = {}
    for cell in cells:
        if method_named(cell.method).fixed:
            found[(cell.group, "metanas", 0)] = None
        if cell.pretraining:
            found[cell.pretraining] = None
    return list(found)


def _outlook(settings: BenchmarkSettings, cells: Sequence[Cell], dropped: dict[str, str], whole: float) -> Outlook:
    left = [cell for cell in cells if not cell_path(settings, cell).exists()]
    taken: dict[tuple[str, int], list[float]] = defaultdict(list)
    for found in read_cells(Path(settings.out) / "cells", [cell.file for cell in grid(settings)]):
        seconds = found["rows"][0]["seconds"] + found["scoring_seconds"]
        taken[found["cell"]["method"], found["cell"]["steps"]].append(seconds)
    trained = {p for p in _pretrainings(cells) if is_done(settings, p)}
    hours = predicted_hours(settings, left, trained, {key: float(np.mean(values)) for key, values in taken.items()})
    trainings = len([p for p in _pretrainings(left) if p not in trained])
    return Outlook(len(cells), len(cells) - len(left), trainings, hours, whole, dropped)


def _rows(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    return [row for found in read_cells(Path(settings.out) / "cells", [c.file for c in grid(settings)]) for row in found["rows"]]
