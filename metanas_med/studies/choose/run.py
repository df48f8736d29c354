"""Run the grid: checks before anything is measured, then the missing cells, then one CSV."""

from __future__ import annotations

import logging
from pathlib import Path

from ...engine.configuration import Configuration, joint_rows
from ...errors import ConfigError
from ...launch import build_launcher
from ..benchmark.guards import check_held_out
from ..grid.cells import cell_path, check_failures, failure_path
from ..grid.frozen import hold_settings
from ..grid.lock import alone_in
from .cells import Cell, chosen
from .data import make_missing_phantoms, open_datasets
from .paces import measure_paces
from .settings import ChooseSettings
from .work import measure, set_up, start_of

log = logging.getLogger(__name__)


def run_choose(settings: ChooseSettings) -> Path:
    """Return the folder of the cells after the missing ones were measured.

    Raises ConfigError for an unknown data set, one of a test group, or no configuration that the start can take, and DataError where
    the start has seen a data set, before anything is measured. Raises DataError in the end where a cell failed.
    """
    with alone_in(settings.folder):
        make_missing_phantoms(settings)
        datasets = open_datasets(settings)
        for name in settings.names:
            check_held_out(datasets, start_of(settings, name), name)
        cells = chosen(settings, usable(settings))
        choices = usable(settings)
        if settings.equal_time:
            timed = settings.model_copy(update={"equal_time": False})
            first = [Cell(settings.names[0], 0, each) for each in choices]
            measure_paces(settings, [(cell.configuration, set_up(timed, cell)) for cell in first])
        for cell in {c.dataset: c for c in cells}.values():
            set_up(settings, cell)  # finds too few patients before the first cell is measured
        hold_settings(settings.folder, frozen(settings), dict)
        for cell in cells:
            failure_path(settings, cell).unlink(missing_ok=True)
        left = [cell for cell in cells if not cell_path(settings, cell).exists()]
        launcher = build_launcher(settings.launcher, settings.workers)
        for number, _ in enumerate(launcher.map(measure, [(settings, cell) for cell in left]), start=1):
            print(f"{number} of {len(left)} cells", flush=True)
        check_failures(settings, cells)
    return settings.folder / "cells"


def usable(settings: ChooseSettings) -> tuple[Configuration, ...]:
    """Return the configurations that the start can take; a warning names the others. ConfigError where only the default is left."""
    run, kept = start_of(settings), []
    rows = joint_rows(run)
    for each in settings.choices:
        own = {row for row, option in each.picks.items() if row in rows and rows[row].options[0] == option}
        if each.picks and own == set(each.picks):
            log.warning("configuration %s is left out: it is the default of this start", each.name)
            continue
        try:
            each.apply(run, run.settings.adapt, run.settings.plan.of_adapt())
            kept.append(each)
        except ConfigError as error:
            log.warning("configuration %s is left out: %s", each.name, error)
    if len(kept) < 2:
        raise ConfigError(f"configurations: the start {settings.start} can take none of them but the default.")
    return tuple(kept)


def frozen(settings: ChooseSettings) -> dict[str, object]:
    """Return what cells depend on, apart from their own configuration: cells of other values cannot be compared."""
    values = settings.model_dump(
        mode="json", include={"steps", "shots", "num_query", "fold_steps", "folds", "phantom_cases", "equal_time"}
    )
    starts = {name: start_of(settings, name).sha256[:16] for name in settings.starts}
    return {**values, "checkpoint": start_of(settings).sha256[:16], "starts": starts}


def outlook(settings: ChooseSettings) -> str:
    """Return how many cells there are and how many are done, in words."""
    cells = chosen(settings, usable(settings))
    done = sum(cell_path(settings, cell).exists() for cell in cells)
    sizes = (
        f"{len(settings.names)} data sets, {settings.draws} draws, {len({c.configuration.name for c in cells})} configurations"
    )
    return f"{done} of {len(cells)} cells are done ({sizes})."
