"""The study: check, predict the hours, run the cells, write the CSV and the report."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.cache import prepare
from ...data.cached import open_cache
from ...engine.settings import load_settings
from ...errors import ConfigError
from ...files import write_csv
from ...launch import build_launcher, run_all
from ...resources import find_resource
from ...tasks.organ import task_in
from ..benchmark.guards import check_free
from ..grid.cases import data_folders
from ..grid.cells import cell_path, check_failures, failure_path, read_cells
from ..grid.lock import alone_in
from ..grid.published import check_keeps, publish_settings
from .cells import Cell, chosen, grid, predicted_hours
from .guards import check_same_scans, check_settings, check_steps, pace_of_row, place_of
from .merge import PACE_COLUMNS, PUBLISHED_PACES, PUBLISHED_SETTINGS
from .run_cell import COLUMNS, measure, pace_path, split, work
from .settings import UnnasSettings


@dataclass(frozen=True)
class Outlook:
    """What a grid will do: cells by task, finished ones, hours to come."""

    cells: Mapping[str, int]
    done: Mapping[str, int]
    hours: float

    @property
    def table(self) -> list[dict[str, Any]]:
        return [{"task": task, "cells": number, "done": self.done.get(task, 0)} for task, number in self.cells.items()]

    @property
    def lines(self) -> list[str]:
        """Return how much there is to do and how long it will take."""
        cells, done = sum(self.cells.values()), sum(self.done.values())
        return [f"{cells} cells, {done} done; predicted for the rest: {self.hours:.1f} hours"]


def unnas(
    config: str,
    overrides: Sequence[str] = (),
    *,
    report_only: bool = False,
    dry_run: bool = False,
    before: Callable[[Outlook], None] | None = None,
) -> Path | None:
    """Return the path of the report after running the cells that are not done; None after a ``dry_run``.

    ``before`` gets the outlook. The experiment of UnNAS (Liu et al. 2020, arXiv 2003.12056, section 4) on one organ:
    architectures are trained with labels, and without labels on pretext tasks. Do both scores rank them alike? Raises
    ConfigError for unknown pretext tasks, a data set of the benchmark's test groups, and cells made with other settings.
    Where a cell fails, the others go on, and DataError is raised at the end.
    """
    settings = load_settings(find_resource("configs", config), overrides, UnnasSettings)
    wanted = chosen(settings)
    if before:
        before(outlook(settings, wanted))
    if dry_run:
        return None
    if not report_only:
        _run(settings, wanted)
    from .report import write_report  # matplotlib is not needed before

    rows = [found["row"] for found in read_cells(Path(settings.out) / "cells", [c.file for c in grid(settings)])]
    if not rows:
        raise ConfigError(f"{settings.out} holds no cell of {config} yet. Run the study without --report first.")
    results = Path(settings.results or settings.out)
    paces = _paces(settings)
    check_same_scans([{k: str(v) for k, v in row.items()} for row in rows], Path(settings.out))
    check_steps(settings, rows, paces, Path(settings.out))
    for name, found, key in (("unnas.csv", rows, place_of), (PUBLISHED_PACES, paces, pace_of_row)):
        check_keeps(results / name, found, key, f"Take them first: study unnas --merge {results}")
    write_csv(results / "unnas.csv", rows, COLUMNS)
    write_csv(results / PUBLISHED_PACES, paces, PACE_COLUMNS)
    publish_settings(settings, results / PUBLISHED_SETTINGS)
    report = write_report(results, settings)
    if not report_only:
        check_failures(settings, wanted)
    return report


def _run(settings: UnnasSettings, wanted: Sequence[Cell]) -> None:
    root = next((p for p in data_folders(Path(settings.data)) if p.name == settings.dataset), None)
    if root is None:
        raise ConfigError(f"dataset: {settings.data} holds no data set {settings.dataset!r}. Give its folder's name.")
    with alone_in(Path(settings.out)):
        prepare([root], settings.cache)
        dataset = open_cache(Path(settings.cache) / f"{settings.dataset}.h5")
        check_free(dataset)
        split(dataset, settings.num_query)
        task_in(dataset, settings.organ)
        check_settings(settings)
        for cell in wanted:
            failure_path(settings, cell).unlink(missing_ok=True)
        launcher = build_launcher(settings.launcher, settings.workers)
        run_all(launcher, measure, [(settings, cell) for cell in unmeasured(settings, wanted)])
        run_all(launcher, work, [(settings, cell) for cell in wanted])


def unmeasured(settings: UnnasSettings, wanted: Sequence[Cell]) -> list[Cell]:
    """Return one cell for every architecture and task of ``wanted`` whose pace is not noted."""
    cells = {pace_path(settings, cell): cell for cell in reversed(wanted)}
    return [cell for path, cell in reversed(cells.items()) if not path.exists()]


def _paces(settings: UnnasSettings) -> list[dict[str, Any]]:
    paths = dict.fromkeys(pace_path(settings, cell) for cell in grid(settings))
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def outlook(settings: UnnasSettings, cells: Sequence[Cell]) -> Outlook:
    """Return how many ``cells`` are done and the hours of the rest, predicted from finished cells where there are any."""
    taken: dict[str, list[float]] = defaultdict(list)
    for found in read_cells(Path(settings.out) / "cells", [cell.file for cell in cells]):
        # a cell of another run says only how long its training took
        taken[found["cell"]["task"]].append(found.get("cell_seconds", float(found["row"]["wall_seconds"])))
    left = [cell for cell in cells if not cell_path(settings, cell).exists()]
    hours = predicted_hours(settings, left, {task: float(np.mean(values)) for task, values in taken.items()})
    return Outlook(Counter(c.task for c in cells), {task: len(values) for task, values in taken.items()}, hours)
