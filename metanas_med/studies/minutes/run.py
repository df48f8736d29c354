"""Run the study: checks before anything is measured, then the missing cells, one at a time unless there are more workers."""

from __future__ import annotations

import logging
from pathlib import Path

from ...engine.settings import Settings
from ...errors import ConfigError
from ...launch import build_launcher
from ..benchmark.guards import check_held_out
from ..grid.cases import open_prepared, open_run
from ..grid.cells import cell_path, check_failures, failure_path
from ..grid.frozen import hold_settings
from ..grid.lock import alone_in
from .cells import chosen, left_out, predicted_hours
from .settings import MinutesStudySettings
from .work import find_start, measure, set_up

log = logging.getLogger(__name__)


def run_minutes(settings: MinutesStudySettings) -> Path:
    """Return the folder of the cells after the missing ones were measured.

    Raises ConfigError for a data set that the cache lacks, and DataError where a start has seen a data set or a relative, before
    anything is measured. Raises DataError in the end where a cell failed.
    """
    with alone_in(settings.folder):
        check(settings)
        for name, why in left_out(settings).items():
            log.warning("method %s is left out: %s", name, why)
        cells = chosen(settings)
        hold_settings(settings.folder, frozen(settings), dict)
        for cell in cells:
            failure_path(settings, cell).unlink(missing_ok=True)
        left = [cell for cell in cells if not cell_path(settings, cell).exists()]
        launcher = build_launcher("serial" if settings.workers == 1 else "processes", settings.workers)
        for number, _ in enumerate(launcher.map(measure, [(settings, cell) for cell in left]), start=1):
            print(f"{number} of {len(left)} cells", flush=True)
        check_failures(settings, cells)
    return settings.folder / "cells"


def check(settings: MinutesStudySettings) -> None:
    """Raise ConfigError for missing data sets, DataError for a start that has seen one, and for too few patients."""
    if unknown := [name for name in settings.long_datasets if name not in settings.datasets]:
        raise ConfigError(f"long_datasets: {unknown[0]} is not one of datasets")
    paths = {name: Path(settings.cache) / f"{name}.h5" for name in settings.datasets}
    if missing := [name for name, path in paths.items() if not path.exists()]:
        raise ConfigError(f"datasets: {settings.cache} holds no {', '.join(missing)}. Prepare them first.")
    datasets = {name: open_prepared(str(path)) for name, path in paths.items()}
    for folder in filter(None, (settings.start, settings.joint)):
        run = open_run(str(find_start(folder)))
        for name in datasets:
            check_held_out(datasets, run, name)
    for cell in chosen(settings):
        set_up(settings, cell)


def frozen(settings: MinutesStudySettings) -> dict[str, object]:
    """Return what cells depend on: cells of other values cannot be compared."""
    values = settings.model_dump(mode="json", include={"num_query", "search", "alone", "tta", "device", "threads", "workers"})
    runs = {key: open_run(str(find_start(folder))) for key, folder in _starts(settings).items()}
    learner: Settings = runs["start"].settings
    how = {"adapt": learner.adapt.model_dump(mode="json"), "plan": learner.plan.of_adapt().model_dump(mode="json")}
    return {**values, **how, **{key: run.sha256[:16] for key, run in runs.items()}}


def outlook(settings: MinutesStudySettings) -> str:
    """Return how many cells there are, how many are done, and how long the others take, in words."""
    cells = chosen(settings)
    left = [cell for cell in cells if not cell_path(settings, cell).exists()]
    lines = [f"method {name} is left out: {why}" for name, why in left_out(settings).items()]
    lines.append(f"{len(cells) - len(left)} of {len(cells)} cells are done.")
    lines.append(f"The others take about {predicted_hours(left) / settings.workers:.1f} hours.")
    return "\n".join(lines)


def _starts(settings: MinutesStudySettings) -> dict[str, str]:
    return {key: folder for key, folder in (("start", settings.start), ("joint", settings.joint)) if folder}
