"""Train recipes for an equal wall time each, then adapt from their starts, and from fresh weights, to organs held out of them.

All trainings come first: a cell next to a training would take some of its time. Every finished training and cell is kept, so a
stopped study resumes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...data.cached import CachedDataset, open_caches
from ...errors import ConfigError, DataError
from ...files import write_csv, write_text
from ...launch import build_launcher, run_all
from ...tasks.distribution import build_distribution
from ..benchmark.guards import check_unseen
from ..grid.cells import check_failures, failure_path, read_cells
from ..grid.frozen import hash_settings, hold_settings
from ..grid.lock import alone_in
from .jobs import COLUMNS, FRESH, Cell, Training, adaptation, measure, train, warn_of_other_settings
from .settings import StartSettings


def compare_recipes(settings: StartSettings, final: bool = False) -> Path:
    """Return the path of ``out``/start.csv after the missing trainings and cells; ``final``: those of the final folds alone.

    Raises ConfigError for an unknown recipe or data set or a wrong setting of a recipe, and DataError where a recipe would
    learn from what is held out, before anything is trained. Raises DataError in the end where a training or cell failed.
    """
    out, csv = settings.folder, settings.folder / "start.csv"
    trainings = trainings_of(settings, final)
    datasets = open_caches(Path(settings.cache))
    with alone_in(out):
        _write_distributions(settings, trainings)
        for training in trainings:
            check_training(settings, training, datasets)
        hold_settings(
            out, {"adaptation": hash_settings(*adaptation()), "num_query": settings.num_query, "shots": settings.shots}, dict
        )
        launcher = build_launcher(settings.launcher, settings.workers)
        try:
            missing = [t for t in trainings if not t.is_done(settings)]
            run_all(launcher, train, [(settings, t) for t in missing])
            done = [t for t in trainings if t.is_done(settings)]
            for training in done:
                warn_of_other_settings(settings, training)
            cells = cells_of(settings, done)
            for cell in cells:
                failure_path(settings, cell).unlink(missing_ok=True)
            left = [c for c in cells if not (out / "cells" / c.file).exists()]
            for number, _ in enumerate(launcher.map(measure, [(settings, c) for c in left]), start=1):
                print(f"{number} of {len(left)} cells", flush=True)
        finally:
            _write_rows(settings, csv)
    failed = [t.failure(settings) for t in trainings if not t.is_done(settings) and t.failure(settings).exists()]
    if failed:
        raise DataError(f"{len(failed)} of {len(trainings)} trainings failed. {failed[0]}: {failed[0].read_text().strip()[:300]}")
    check_failures(settings, cells)
    return csv


def trainings_of(settings: StartSettings, final: bool = False) -> list[Training]:
    """Return the trainings of the chosen recipes; those of one recipe and seed follow each other, so they run side by side."""
    folds = [name for name, fold in settings.folds.items() if fold.final == final]
    if not folds:
        raise ConfigError(f"folds: none is {'' if final else 'not '}final")
    return [Training(name, fold, seed) for name, r in settings.chosen(final).items() for seed in r.seeds for fold in folds]


def cells_of(settings: StartSettings, trainings: Sequence[Training]) -> list[Cell]:
    """Return the cells of the ``trainings``, and of fresh weights once a fold and width, from the first of these trainings."""
    first: dict[tuple[str, int], Training] = {}
    for t in trainings:
        first.setdefault((t.fold, settings.settings_of(t.recipe, t.fold, t.seed).space.base_width), t)
    starts = [(t, 0, False) for t in trainings] + [(t, width, False) for (_, width), t in first.items()]
    starts += [(t, 1, True) for t in trainings if settings.recipes[t.recipe].own_fresh and t.seed == 0]
    return [
        Cell(training, dataset, draw, steps, fresh, own)
        for training, fresh, own in starts
        for dataset in settings.folds[training.fold].datasets
        for steps in settings.steps
        for draw in range(settings.long_draws if steps > settings.long_steps else settings.draws)
    ]


def check_training(settings: StartSettings, training: Training, datasets: Mapping[str, CachedDataset]) -> None:
    """Raise ConfigError for settings that are wrong, DataError where it would learn from what its fold tests, or a relative."""
    own = settings.settings_of(training.recipe, training.fold, training.seed)
    fold = settings.folds[training.fold]
    if missing := [name for name in fold.datasets if name not in datasets]:
        raise ConfigError(f"folds.{training.fold}: {settings.cache} holds no {', '.join(missing)}. Prepare them first.")
    found = build_distribution(datasets, own.tasks, own.plan, own.space.levels, labelled=own.pretext.mix < 1)
    for name in fold.datasets:
        check_unseen(datasets, found.training_sets, name)


def _write_distributions(settings: StartSettings, trainings: Sequence[Training]) -> None:
    for name in dict.fromkeys(t.recipe for t in trainings):
        if names := settings.recipes[name].datasets:
            # JSON is YAML
            write_text(settings.sets_of(name), json.dumps({"name": name, "datasets": names}) + "\n")


def _write_rows(settings: StartSettings, csv: Path) -> None:
    """Write the rows of all cells to ``csv``, of this run and of earlier ones, in the order of the recipes."""
    folder = settings.folder / "cells"
    rows = read_cells(folder, sorted(path.name for path in folder.glob("*.json")))
    for row in rows:
        name = row["recipe"].removeprefix(f"{FRESH}-")
        recipe = settings.recipes.get(name)
        own = f"fresh weights in the network of {name}" if name != row["recipe"] else ""
        row |= {"about": own or (recipe.about if recipe else ""), "series": " ".join(recipe.series) if recipe and not own else ""}
    place = {name: number for number, name in enumerate(settings.recipes)}
    rows.sort(
        key=lambda r: (place.get(r["recipe"], len(place)), r["recipe"], r["seed"], r["fold"], r["dataset"], r["steps"], r["draw"])
    )
    if rows:
        write_csv(csv, rows, COLUMNS)
