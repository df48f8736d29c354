"""Cells taken over from the published results of another run: a grid can move, or be made on several machines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...engine.settings import load_settings
from ...errors import DataError
from ...files import write_csv
from ...resources import find_resource
from ..grid.lock import alone_in
from ..grid.published import Merged, published_rows, take_cells
from .cells import Cell, chosen, num_scored
from .compare import Row, place_of
from .guards import check_made_alike, check_settings
from .pretrain import META_COLUMNS
from .run_cell import COLUMNS
from .settings import BenchmarkSettings

#: the published settings that a run's cells were made with
PUBLISHED_SETTINGS = "benchmark_settings.json"
#: in the folder of a run: the meta-trainings of the runs that cells were taken from
MERGED_META = "meta_merged.csv"


def merge(config: str, overrides: Sequence[str], folder: Path) -> Merged:
    """Take the cells published in ``folder`` that the run has not made itself.

    ``folder`` holds ``results.csv``, ``meta.csv`` and ``benchmark_settings.json``. Their rows stay as they are and name the
    code, the state and the device that they came from. Raises ConfigError where files are missing or the cells were made with
    other settings, and DataError where a cell's rows are incomplete. Nothing is taken then.
    """
    path = find_resource("configs", config)
    frozen = load_settings(path, (), BenchmarkSettings)
    settings = load_settings(path, overrides, BenchmarkSettings)
    trained = published_rows(folder / "meta.csv", META_COLUMNS) if (folder / "meta.csv").exists() else []
    offered: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in published_rows(folder / "results.csv", COLUMNS):
        offered[place_of(row)].append(row)
    cells = [cell for cell in chosen(settings) if cell.place in offered]
    check_made_alike(settings, folder / PUBLISHED_SETTINGS)
    cases = _cases(settings, cells, offered)
    for cell in cells:
        _check_whole(settings, cell, offered[cell.place], cases[cell.dataset, num_scored(settings, cell)], folder)
    out = Path(settings.out)
    with alone_in(out):
        check_settings(settings, frozen, sorted({cell.group for cell in cells}))
        earlier = published_rows(out / MERGED_META, META_COLUMNS) if (out / MERGED_META).exists() else []
        if trained:
            rows = {tuple(row.items()): row for row in [*earlier, *trained]}
            write_csv(out / MERGED_META, list(rows.values()), META_COLUMNS)
        return take_cells(settings, {cell: {"rows": offered[cell.place], "report": {}} for cell in cells}, len(offered))


def merged_trainings(settings: BenchmarkSettings) -> list[Row]:
    """Return the rows of ``meta.csv`` of the runs that cells were taken from."""
    path = Path(settings.out) / MERGED_META
    return published_rows(path, META_COLUMNS) if path.exists() else []


def _cases(
    settings: BenchmarkSettings, cells: Sequence[Cell], offered: Mapping[tuple[str, ...], Sequence[Row]]
) -> dict[tuple[str, int], set[str]]:
    """Return the query cases by data set and their number. All cells share one list, so that of the majority is taken."""
    found: dict[tuple[str, int], Counter[frozenset[str]]] = defaultdict(Counter)
    for cell in cells:
        found[cell.dataset, num_scored(settings, cell)][frozenset(row["case"] for row in offered[cell.place])] += 1
    return {key: set(count.most_common(1)[0][0]) for key, count in found.items()}


def _check_whole(settings: BenchmarkSettings, cell: Cell, rows: Sequence[Row], cases: set[str], folder: Path) -> None:
    """Raise DataError unless every organ has each of ``cases`` once, and draw, state and code are the same in all rows.

    The organs are those of the settings; where these name none, those of the rows.
    """
    named = {organ for g in settings.groups for d in g.data if d.dataset == cell.dataset for organ in d.organs}
    organs = {r["organ"] for r in rows}
    expected = organs if not named else named if cell.target == "all" else {cell.target}
    places = {(r["organ"], r["case"]) for r in rows}
    whole = (
        places == {(o, c) for o in expected for c in cases}
        and len(places) == len(rows)
        and len(cases) <= num_scored(settings, cell)
    )
    one = len({(r["support_hash"], r["checkpoint"], r["code"], r["seconds"]) for r in rows}) == 1
    if not (whole and one):
        raise DataError(
            f"{folder / 'results.csv'}: the {len(rows)} rows of {cell.name} are not one complete cell ({len(organs)} organs, "
            f"{len({r['case'] for r in rows})} cases; expected {len(expected)} and {len(cases)}). Publish them again (--report "
            "--results FOLDER)."
        )
