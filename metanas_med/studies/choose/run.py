"""Run the grid: checks before anything is measured, then the missing cells, then one CSV."""

from __future__ import annotations

import logging
from pathlib import Path

from ...engine.configuration import Configuration, joint_rows
from ...errors import ConfigError
from ...launch import build_launcher
from ..grid.cells import cell_path, check_failures, failure_path
from ..grid.frozen import hold_settings
from ..grid.lock import alone_in
from .cells import chosen
from .data import make_missing_phantoms
from .settings import ChooseSettings
from .work import measure, set_up, start_for, starts_of

log = logging.getLogger(__name__)


def run_choices(settings: ChooseSettings) -> Path:
    """Return the folder of the cells after the missing ones were measured.

    Raises ConfigError for an unknown data set, one of a test group, or no configuration that the start can take, and DataError where
    the start has seen a data set, before anything is measured. Raises DataError in the end where a cell failed.
    """
    with alone_in(settings.folder):
        make_missing_phantoms(settings)
        for name in settings.names:
            start_for(settings, name)
        cells = chosen(settings, usable(settings))
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
    runs, kept = starts_of(settings), []
    rows = joint_rows(runs[0])
    for each in settings.choices:
        own = {row for row, option in each.picks.items() if row in rows and rows[row].options[0] == option}
        if each.picks and own == set(each.picks):
            log.warning("configuration %s is left out: it is the default of this start", each.name)
            continue
        try:
            for run in runs:
                each.apply(run, run.settings.adapt, run.settings.plan.of_adapt())
            kept.append(each)
        except ConfigError as error:
            log.warning("configuration %s is left out: %s", each.name, error)
    if len(kept) < 2:
        raise ConfigError(f"configurations: the start {settings.start} can take none of them but the default.")
    return tuple(kept)


def frozen(settings: ChooseSettings) -> dict[str, object]:
    """Return what cells depend on, apart from their own configuration: cells of other values cannot be compared."""
    values = settings.model_dump(mode="json", include={"steps", "shots", "num_query", "fold_steps", "folds", "phantom_cases"})
    return {**values, "checkpoint": " ".join(run.sha256[:16] for run in starts_of(settings))}


def outlook(settings: ChooseSettings) -> str:
    """Return how many cells there are and how many are done, in words."""
    cells = chosen(settings, usable(settings))
    done = sum(cell_path(settings, cell).exists() for cell in cells)
    sizes = (
        f"{len(settings.names)} data sets, {settings.draws} draws, {len({c.configuration.name for c in cells})} configurations"
    )
    return f"{done} of {len(cells)} cells are done ({sizes})."
