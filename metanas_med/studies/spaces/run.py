"""Run the study: checks before anything is measured, then the missing cells, kind by kind."""

from __future__ import annotations

from pathlib import Path

from ...data.cache import prepare
from ...data.cached import open_cache
from ...errors import ConfigError
from ...launch import build_launcher
from ..benchmark.guards import check_free
from ..grid.cases import data_folders
from ..grid.cells import cell_path, check_failures, failure_path
from ..grid.frozen import hold_settings
from ..grid.lock import alone_in
from .cells import FIXED, KINDS, RANDOM, SEARCH, STEP, chosen, predicted_hours
from .settings import SpacesSettings
from .shared import Data, cache_of
from .work import work

#: seconds of a cell of each kind, until one is done: guesses from one core of a laptop
GUESS = {STEP: 25.0, SEARCH: 60.0, RANDOM: 30.0, FIXED: 25.0}


def run_spaces(settings: SpacesSettings) -> Path:
    """Return the folder of the cells after the missing ones were measured.

    Raises ConfigError for an unknown space, learner or data set, and for a data set of the benchmark's test groups, before anything is
    measured. Raises DataError in the end where a cell failed.
    """
    with alone_in(Path(settings.out)):
        wanted = chosen(settings)
        _prepare(settings)
        check_free(open_cache(cache_of(settings)))
        Data.of(settings)
        hold_settings(Path(settings.out), frozen(settings), dict)
        for cell in wanted:
            failure_path(settings, cell).unlink(missing_ok=True)
        launcher = build_launcher(settings.launcher, settings.workers)
        for kind in KINDS:  # costs of random architectures follow from what searches found
            left = [cell for cell in wanted if cell.kind == kind and not cell_path(settings, cell).exists()]
            for number, _ in enumerate(launcher.map(work, [(settings, cell) for cell in left]), start=1):
                print(f"{kind}: {number} of {len(left)} cells", flush=True)
        check_failures(settings, wanted)
    return Path(settings.out) / "cells"


def frozen(settings: SpacesSettings) -> dict[str, object]:
    """Return what cells depend on: cells of other values cannot be compared. More seeds and random draws may be added."""
    left_out = {"data", "cache", "out", "results", "workers", "launcher", "only", "seeds", "random", "spaces", "learners"}
    return settings.model_dump(mode="json", exclude=left_out)


def outlook(settings: SpacesSettings) -> str:
    """Return how many cells there are, how many are done, and how long the rest takes, in words."""
    cells = chosen(settings)
    done = sum(cell_path(settings, cell).exists() for cell in cells)
    hours = predicted_hours(settings, cells, GUESS)
    spaces = len({cell.space for cell in cells})
    return (
        f"{done} of {len(cells)} cells are done ({spaces} spaces, {settings.seeds} seeds); predicted for the rest: {hours:.1f} h"
    )


def _prepare(settings: SpacesSettings) -> None:
    if cache_of(settings).exists():
        return
    root = next((p for p in data_folders(Path(settings.data)) if p.name == settings.dataset), None)
    if root is None:
        raise ConfigError(f"dataset: {settings.data} holds no data set {settings.dataset!r}. Give its folder's name.")
    prepare([root], settings.cache)
