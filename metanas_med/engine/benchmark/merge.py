"""Cells of another run of the same grid, taken over from what it published: so a grid goes on elsewhere, or is made in parts on several machines."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...config import BenchmarkSettings, load_settings
from ...errors import ConfigError, DataError
from ...files import write_csv, write_json
from ...resources import find_resource
from ..grid import alone_in, cell_path
from .cells import Cell, chosen, num_scored
from .compare import Row, place_of
from .guards import check_made_alike, check_settings
from .pretrain import META_COLUMNS
from .run_cell import COLUMNS

#: in the folder of a run: what the runs that cells were taken from said of their meta-trainings
MERGED_META = "meta_merged.csv"


@dataclass(frozen=True)
class Merged:
    """How many cells were ``taken``, how many were ``there`` already, and how many ``others`` the grid that was asked for does not hold."""

    taken: int
    there: int
    others: int


def merge(config: str, overrides: Sequence[str], folder: Path) -> Merged:
    """Take the cells that ``folder`` published (``results.csv``, ``meta.csv``, ``settings.json``) and that the run has not made itself.

    Their rows stay as they are: they name the code, the state and the device that they came from. Raises ConfigError where the files are
    missing or the cells were made under other settings, DataError where a cell's rows are not whole; nothing is taken then.
    """
    path = find_resource("configs", config)
    frozen = load_settings(path, (), BenchmarkSettings)
    settings = load_settings(path, overrides, BenchmarkSettings)
    trained = _read(folder / "meta.csv", META_COLUMNS) if (folder / "meta.csv").exists() else []
    offered: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in _read(folder / "results.csv", COLUMNS):
        offered[place_of(row)].append(row)
    cells = [cell for cell in chosen(settings) if cell.place in offered]
    check_made_alike(settings, folder / "settings.json")
    for cell in cells:
        _check_whole(settings, cell, offered[cell.place], folder)
    out = Path(settings.out)
    with alone_in(out):
        check_settings(settings, frozen, sorted({cell.group for cell in cells}))
        new = [cell for cell in cells if not cell_path(settings, cell).exists()]
        earlier = _read(out / MERGED_META, META_COLUMNS) if (out / MERGED_META).exists() else []
        if trained:
            rows = {tuple(row.items()): row for row in [*earlier, *trained]}
            write_csv(out / MERGED_META, list(rows.values()), META_COLUMNS)
        for cell in new:
            write_json(cell_path(settings, cell), {"cell": asdict(cell), "rows": offered[cell.place], "report": {}})
    return Merged(len(new), len(cells) - len(new), len(offered) - len(cells))


def merged_trainings(settings: BenchmarkSettings) -> list[Row]:
    """Return the rows of ``meta.csv`` of the runs that cells were taken from."""
    path = Path(settings.out) / MERGED_META
    return _read(path, META_COLUMNS) if path.exists() else []


def _read(path: Path, columns: Sequence[str]) -> list[Row]:
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} holds no {path.name}. Give the folder that another run published its results to (--report --results)."
        )
    with open(path, newline="") as source:
        reader = csv.DictReader(source)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f"{path} has no column {missing[0]}: it is of another version, or not of the benchmark.")
        return [{name: row[name] for name in columns} for row in reader]


def _check_whole(settings: BenchmarkSettings, cell: Cell, rows: Sequence[Row], folder: Path) -> None:
    """Raise DataError unless every organ has every case once, and the draw, the state and the code are one."""
    organs, cases = {r["organ"] for r in rows}, {r["case"] for r in rows}
    places = {(r["organ"], r["case"]) for r in rows}
    whole = len(places) == len(rows) == len(organs) * len(cases) and len(cases) <= num_scored(settings, cell)
    one = len({(r["support_hash"], r["checkpoint"], r["code"], r["seconds"]) for r in rows}) == 1
    if not (whole and one):
        raise DataError(
            f"{folder / 'results.csv'}: the {len(rows)} rows of {cell.name} are not those of one whole cell ({len(organs)} organs, "
            f"{len(cases)} cases). Publish them anew (--report --results FOLDER)."
        )
