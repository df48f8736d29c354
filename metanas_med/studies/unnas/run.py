"""The command: check, predict the hours, work through the cells, write the CSV and the report."""

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
from ...files import write_csv, write_json
from ...learner import choose_runtime
from ...resources import find_resource
from ...tasks.organ import task_in
from ..benchmark.guards import check_free
from ..grid import (
    Merged,
    alone_in,
    cell_path,
    check_failures,
    check_keeps,
    check_same,
    data_folders,
    failure_path,
    hold_settings,
    processes,
    publish_settings,
    published_rows,
    read_cells,
    take_cells,
    work_through,
)
from .cells import Cell, chosen, grid, predicted_hours
from .run_cell import COLUMNS, measure, pace_path, split, steps_in, work
from .settings import UnnasSettings

#: what a run publishes of the settings that its cells were made under, and of their paces
PUBLISHED_SETTINGS, PUBLISHED_PACES = "unnas_settings.json", "unnas_pace.csv"
PACE_COLUMNS = ("architecture", "hash", "task", "step_seconds", "machine", "code")

#: settings that say where and on what a grid is run, or only add cells to it
_NOT_FROZEN = {
    "data", "cache", "out", "results", "workers", "only", "num_architectures", "pretexts", "label_seeds", "other_seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Outlook:
    """What a grid will do: cells by task, those done, hours to come."""

    cells: Mapping[str, int]
    done: Mapping[str, int]
    hours: float


def unnas(
    config: str,
    overrides: Sequence[str] = (),
    *,
    report_only: bool = False,
    dry_run: bool = False,
    before: Callable[[Outlook], None] | None = None,
) -> Path | None:
    """Return the path of the report after running what is not done yet; None after a ``dry_run``. ``before`` is told the outlook.

    The experiment of UnNAS (Liu et al. 2020, arXiv 2003.12056, section 4) on one organ: architectures are trained with labels, and without
    on pretexts; do the second scores rank them as the first do? Raises ConfigError for unknown pretexts, a data set of the benchmark's test
    groups, and cells made under other settings. A cell that fails is noted beside the others, which go on; DataError then tells of it at the end.
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
        raise ConfigError(f"{settings.out} holds no cell of {config} yet. Run the command without --report first.")
    results = Path(settings.results or settings.out)
    paces = _paces(settings)
    _check_same_scans([{k: str(v) for k, v in row.items()} for row in rows], Path(settings.out))
    _check_steps(settings, rows, paces, Path(settings.out))
    for name, found, place in (("unnas.csv", rows, _place_of), (PUBLISHED_PACES, paces, _pace_of)):
        check_keeps(results / name, found, place, f"Take them first: unnas --merge {results}")
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
        with processes(settings.workers) as pool:
            work_through(pool, measure, [(settings, cell) for cell in unmeasured(settings, wanted)])
            work_through(pool, work, [(settings, cell) for cell in wanted])


def unmeasured(settings: UnnasSettings, wanted: Sequence[Cell]) -> list[Cell]:
    """Return one cell for every architecture and task of ``wanted`` whose pace is not noted."""
    cells = {pace_path(settings, cell): cell for cell in reversed(wanted)}
    return [cell for path, cell in reversed(cells.items()) if not path.exists()]


def _paces(settings: UnnasSettings) -> list[dict[str, Any]]:
    paths = dict.fromkeys(pace_path(settings, cell) for cell in grid(settings))
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def check_settings(settings: UnnasSettings) -> None:
    """Raise ConfigError where the folder holds cells of other settings; note the settings there where it holds none."""
    hold_settings(Path(settings.out), _frozen(settings), _earlier)


def _frozen(settings: UnnasSettings) -> dict[str, Any]:
    """Return what cells depend on, as JSON values; the precision is the one that this machine computes in."""
    precision = "bfloat16" if choose_runtime("cpu", settings.precision).bfloat16 else "float32"
    return {**settings.model_dump(mode="json", exclude=_NOT_FROZEN), "precision": precision}


def _earlier(noted: dict[str, Any]) -> dict[str, Any]:
    return UnnasSettings.model_validate(noted).model_dump(mode="json", exclude=_NOT_FROZEN)


def merge(config: str, overrides: Sequence[str], folder: Path) -> Merged:
    """Take the cells that ``folder`` published (``unnas.csv``, ``unnas_settings.json``, ``unnas_pace.csv``) and that the run has not made itself.

    Raises ConfigError where the files are missing, the cells were made under other settings or paces, or one stands there twice; nothing is
    taken then.
    """
    settings = load_settings(find_resource("configs", config), overrides, UnnasSettings)
    rows = published_rows(folder / "unnas.csv", COLUMNS)
    offered = {_place_of(row): row for row in rows}
    if len(offered) < len(rows):
        raise ConfigError(f"{folder / 'unnas.csv'}: {len(rows) - len(offered)} cell(s) stand there twice. Publish them anew.")
    check_same(folder / PUBLISHED_SETTINGS, _frozen(settings), _earlier)
    _check_same_scans(rows, folder / "unnas.csv")
    published = published_rows(folder / PUBLISHED_PACES, PACE_COLUMNS)
    _check_steps(settings, rows, published, folder / "unnas.csv")
    keys = {cell: (str(cell.number), cell.hash, cell.task, str(cell.seed)) for cell in chosen(settings)}
    paces = {_pace_of(row): row for row in published}
    with alone_in(Path(settings.out)):
        check_settings(settings)
        _take_paces(settings, paces, folder)
        return take_cells(settings, {cell: {"row": offered[key]} for cell, key in keys.items() if key in offered}, len(offered))


def _take_paces(settings: UnnasSettings, offered: Mapping[tuple[str, ...], Mapping[str, str]], folder: Path) -> None:
    """Write the paces that another run measured, all or none; ConfigError where this run has measured one anew."""
    new: dict[Path, dict[str, Any]] = {}
    for cell in grid(settings):
        row = offered.get((str(cell.number), cell.hash, cell.task))
        if row is None:
            continue
        path, pace = pace_path(settings, cell), {**row, "architecture": cell.number, "step_seconds": float(row["step_seconds"])}
        if path.exists() and json.loads(path.read_text())["step_seconds"] != pace["step_seconds"]:
            raise ConfigError(
                f"{path} is not the pace that {folder} has: trainings of one architecture would differ in steps. Merge into an empty --out first."
            )
        new[path] = pace
    for path, pace in new.items():
        write_json(path, pace)


def _place_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells a cell's row from those of others."""
    return tuple(str(row[name]) for name in ("architecture", "hash", "task", "seed"))


def _pace_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells the pace of a row, a cell's or a pace's own, from those of others."""
    return tuple(str(row[name]) for name in ("architecture", "hash", "task"))


def _check_steps(
    settings: UnnasSettings, rows: Sequence[Mapping[str, Any]], paces: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Raise ConfigError where a cell took other steps than its pace gives it: by another version, or at a pace that was lost."""
    steps = {_pace_of(pace): steps_in(settings.seconds, float(pace["step_seconds"])) for pace in paces}
    odd = [row for row in rows if int(row["steps"]) != steps.get(_pace_of(row))]
    if odd:
        place, expected = ", ".join(_place_of(odd[0])), steps.get(_pace_of(odd[0]))
        raise ConfigError(
            f"{path}: {len(odd)} cell(s) took other steps than their paces give (the first: {place}: {odd[0]['steps']}, expected "
            f"{expected or 'a pace'}). They cannot be ranked with others."
        )


def _check_same_scans(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Raise ConfigError where cells were trained or scored on different scans, or computed in different precisions."""
    for column in ("train_hash", "query_hash", "precision"):
        if len(found := {row[column] for row in rows}) > 1:
            raise ConfigError(f"{path}: its cells have {len(found)} values of {column}; they cannot be ranked together.")


def outlook(settings: UnnasSettings, cells: Sequence[Cell]) -> Outlook:
    """Return what is done of ``cells`` and the hours that the rest takes, by the cells that are done where there are some."""
    taken: dict[str, list[float]] = defaultdict(list)
    for found in read_cells(Path(settings.out) / "cells", [cell.file for cell in cells]):
        # one that was taken from another run does not say how long it took, but for its training
        taken[found["cell"]["task"]].append(found.get("cell_seconds", float(found["row"]["wall_seconds"])))
    left = [cell for cell in cells if not cell_path(settings, cell).exists()]
    hours = predicted_hours(settings, left, {task: float(np.mean(values)) for task, values in taken.items()})
    return Outlook(Counter(c.task for c in cells), {task: len(values) for task, values in taken.items()}, hours)
