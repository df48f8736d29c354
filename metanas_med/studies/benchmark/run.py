"""The study: predict the hours, meta-train what is needed, run the cells, write the CSV and the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.cache import prepare
from ...engine.settings import load_settings
from ...errors import ConfigError
from ...files import write_csv
from ...launch import Launcher, build_launcher, run_all
from ...resources import find_resource
from ..grid.cases import data_folders
from ..grid.cells import cell_path, check_failures, failure_path, read_cells
from ..grid.lock import alone_in
from ..grid.published import check_keeps, publish_settings
from .cells import Cell, chosen, grid, predicted_hours, within_hours
from .compare import place_of
from .guards import check_development, check_made_alike, check_settings, development_groups
from .merge import PUBLISHED_SETTINGS, merged_trainings
from .methods import SEARCHES, method_named
from .pretrain import META_COLUMNS, Pretraining, is_done, pretrain, training_rows
from .run_cell import COLUMNS, architecture_hash, work
from .settings import BenchmarkSettings

#: decimals of measures in tables
_DIGITS = {"dice": 4, "nsd": 4, "hd95_mm": 2}


@dataclass(frozen=True)
class Outlook:
    """What a grid will do: cells by group and method, finished ones, meta-trainings to come, methods left out and why.

    ``hours``: of the remaining cells, including those of development groups, from the times of finished cells.
    ``whole_hours``: of all cells of the test groups by the configuration's guesses, including methods that are not installed;
    ``max_hours`` limits these.
    """

    cells: Mapping[tuple[str, str], int]
    done: Mapping[tuple[str, str], int]
    trainings: int
    hours: float
    whole_hours: float
    max_hours: float
    dropped: Mapping[str, str]

    @property
    def table(self) -> list[dict[str, Any]]:
        return [
            {"held out": group, "method": method, "cells": number, "done": self.done.get((group, method), 0)}
            for (group, method), number in self.cells.items()
        ]

    @property
    def lines(self) -> list[str]:
        """Return how much there is to do and how long it will take, and which methods are left out."""
        return [self.words, *(f"left out: {name}: {why}" for name, why in self.dropped.items())]

    @property
    def words(self) -> str:
        """Return how much there is to do and how long it will take, in one line."""
        return (
            f"{sum(self.cells.values())} cells, {sum(self.done.values())} done, {self.trainings} meta-trainings to come; "
            f"predicted: {self.hours:.1f} hours for the remaining ones (all cells of the test groups by the configuration's "
            f"guesses: {self.whole_hours:.1f} hours, at most {self.max_hours:g})"
        )


def benchmark(
    config: str,
    overrides: Sequence[str] = (),
    *,
    report_only: bool = False,
    dry_run: bool = False,
    before: Callable[[Outlook], None] | None = None,
) -> Path | None:
    """Return the path of the report after running the cells that are not done; None after a ``dry_run``.

    ``before`` gets the outlook. Raises ConfigError for unknown methods, for settings that are not allowed, and for a test
    group that is marked as development. Where a cell fails, the others go on, and DataError is raised at the end, after the
    report is written. The report uses the configuration file: cells that ``overrides`` leave out are still planned, so that
    no claim rests on fewer cells.
    """
    path = find_resource("configs", config)
    frozen = load_settings(path, (), BenchmarkSettings)
    asked = load_settings(path, overrides, BenchmarkSettings)
    for given in (frozen, asked):
        check_development(given)
    settings, dropped, whole = within_hours(asked, report_only)
    wanted = chosen(settings)
    if before:
        before(_outlook(settings, wanted, dropped, whole))
    if dry_run:
        return None
    if not report_only:
        _run(settings, frozen, wanted)
    report = _publish(config, asked, frozen, report_only)
    if not report_only:
        check_failures(settings, wanted)
    return report


def _publish(config: str, asked: BenchmarkSettings, frozen: BenchmarkSettings, report_only: bool) -> Path:
    """Return the path of the report after writing it, the CSV files and the settings to the folder of results."""
    from .report import write_report  # matplotlib is not needed before

    # a report covers all finished cells of the file's grid, whatever was requested now; development groups are free
    free = development_groups(asked, frozen)
    known = list(dict.fromkeys([*grid(frozen), *(cell for cell in grid(asked) if cell.group in free)]))
    rows = _rows(Path(asked.out) / "cells", [cell.file for cell in known])
    if not rows:
        raise ConfigError(f"{asked.out} holds no cell of {config} yet. Run the study without --report first.")
    if any(not int(row["development"]) for row in rows):
        check_made_alike(frozen, Path(asked.out) / "settings.json")
    results = Path(asked.results or asked.out)
    # one row a case is a lot of data for a repository, so published results are compressed
    table = results / ("results.csv.xz" if asked.results else "results.csv")
    check_keeps(
        results / "results.csv",
        rows,
        place_of,
        f"Take them first (study benchmark --merge {results}), or remove it if they are of other settings.",
    )
    write_csv(table, rows, COLUMNS)
    if trained := _trainings(asked, known, {row["checkpoint"] for row in rows}):
        write_csv(results / "meta.csv", trained, META_COLUMNS)
    publish_settings(asked, results / PUBLISHED_SETTINGS)
    there = {row["method"] for row in rows}
    left_out = {name: why for name, why in within_hours(frozen, report_only)[1].items() if name not in there}
    return write_report(results, frozen, left_out)


def _trainings(settings: BenchmarkSettings, cells: Sequence[Cell], named: Set[str]) -> list[dict[str, Any]]:
    """Return a row for each meta-training that the cells need: that they start from, or that sets the size of fixed networks.

    A published one that was taken back counts once. Where several searches could set the size of a group's fixed networks,
    the run's own counts.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    sized: set[str] = set()
    for row in (*training_rows(settings, pretrainings(cells)), *merged_trainings(settings)):
        group, kind, seed, checkpoint = (str(row[key]) for key in ("held_out", "kind", "seed", "checkpoint"))
        sizes = (kind, seed) == ("metanas", "0") and group not in sized
        if sizes or not checkpoint or checkpoint in named:  # old versions did not note the checkpoint
            sized |= {group} if sizes else set()
            found.setdefault((group, kind, seed, checkpoint), row)
    return list(found.values())


def _rows(folder: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the finished cells. Older cells lack the column of architectures and get it from their reports.

    Measures are rounded to the digits that are used: more digits would make up most of the compressed table's size.
    """
    return [
        {
            "architecture": architecture_hash(found["report"].get("genotype")),
            **row,
            **{name: round(float(row[name]), digits) for name, digits in _DIGITS.items()},
        }
        for found in read_cells(folder, files)
        for row in found["rows"]
    ]


def _run(settings: BenchmarkSettings, frozen: BenchmarkSettings, wanted: Sequence[Cell]) -> None:
    roots = data_folders(Path(settings.data))
    shared = [cell for cell in wanted if not method_named(cell.method).alone]
    alone = [cell for cell in wanted if method_named(cell.method).alone]
    with alone_in(Path(settings.out)):
        check_settings(settings, frozen, sorted({cell.group for cell in wanted}))
        prepare(roots, settings.run.cache)
        for cell in wanted:
            failure_path(settings, cell).unlink(missing_ok=True)
        launcher = build_launcher(settings.launcher, settings.workers)
        # seed by seed, so that a grid that stops early has complete rows of some seeds instead of the meta-trainings of all
        for seed in sorted({cell.seed for cell in shared}):
            cells = [cell for cell in shared if cell.seed == seed]
            _meta_train(launcher, settings, pretrainings(cells))
            run_all(launcher, work, [(settings, cell) for cell in cells])
        # these use all cores: next to other cells, the times of both would be wrong
        run_all(build_launcher(settings.launcher, 1), work, [(settings, cell) for cell in alone])


def _meta_train(launcher: Launcher, settings: BenchmarkSettings, needed: Sequence[Pretraining]) -> None:
    """Run the ``needed`` meta-trainings.

    Those of the fixed U-Net wait for the first search of their group, which sets its size.
    """
    fixed = [p for p in needed if p[1] not in SEARCHES]

    def then(done: tuple[BenchmarkSettings, Pretraining]) -> list[tuple[BenchmarkSettings, Pretraining]]:
        group, *rest = done[1]
        return [(settings, p) for p in fixed if p[0] == group] if rest == ["metanas", 0] else []

    run_all(launcher, pretrain, [(settings, p) for p in needed if p not in fixed], then)


def pretrainings(cells: Sequence[Cell]) -> list[Pretraining]:
    """Return the meta-trainings that ``cells`` need, in their order; the size of the fixed U-Net needs a search."""
    found: dict[Pretraining, None] = {}
    for cell in cells:
        if method_named(cell.method).fixed:
            found[(cell.group, "metanas", 0)] = None
        if cell.pretraining:
            found[cell.pretraining] = None
    return list(found)


def _outlook(settings: BenchmarkSettings, cells: Sequence[Cell], dropped: Mapping[str, str], whole: float) -> Outlook:
    left = [cell for cell in cells if not cell_path(settings, cell).exists()]
    taken: dict[tuple[str, int, float], list[float]] = defaultdict(list)
    for found in read_cells(Path(settings.out) / "cells", [cell.file for cell in cells]):
        cell: dict[str, Any] = found["cell"]
        if "cell_seconds" in found:  # missing in a cell of another run
            taken[cell["method"], cell["steps"], cell["times"]].append(found["cell_seconds"])
    trained = {p for p in pretrainings(cells) if is_done(settings, p)}
    hours = predicted_hours(settings, left, trained, {key: float(np.mean(values)) for key, values in taken.items()})
    trainings = len([p for p in pretrainings(left) if p not in trained])
    count = Counter((cell.group, cell.method) for cell in cells)
    done = count - Counter((cell.group, cell.method) for cell in left)
    return Outlook(count, done, trainings, hours, whole, settings.max_hours, dropped)
