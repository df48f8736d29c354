"""Published results of a grid: written, protected from loss, and taken over by another run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from ...errors import ConfigError, DataError
from ...files import csv_path, read_csv, write_json, write_text
from .cells import InFolder, NamedCell, cell_path


class DataCell(NamedCell, Protocol):
    """A named cell that is a data class."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


DataCellT = TypeVar("DataCellT", bound=DataCell)


@dataclass(frozen=True)
class Merged:
    """How many cells were ``taken``, how many were ``there`` before, and how many ``others`` are not in the requested grid."""

    taken: int
    there: int
    others: int

    @property
    def words(self) -> str:
        others = f"; {self.others} others were not requested" if self.others else ""
        return f"{self.taken} cells taken, {self.there} were there{others}"


def take_cells(settings: InFolder, records: Mapping[DataCellT, Mapping[str, Any]], offered: int) -> Merged:
    """Write the ``records`` of published cells as files, except cells that exist; ``offered``: how many cells were published."""
    new = [cell for cell in records if not cell_path(settings, cell).exists()]
    for cell in new:
        write_json(cell_path(settings, cell), {"cell": asdict(cell), **records[cell]})
    return Merged(len(new), len(records) - len(new), offered - len(records))


def publish_settings(settings: InFolder, path: Path) -> None:
    """Copy the settings of a run's cells to ``path``, next to its results: another run needs them to take the cells over."""
    if (kept := Path(settings.out) / "settings.json").exists():
        write_text(path, kept.read_text())


def check_keeps(
    path: Path, rows: Sequence[Mapping[str, Any]], place_of: Callable[[Mapping[str, Any]], tuple[str, ...]], remedy: str
) -> None:
    """Raise ConfigError where the CSV ``path`` holds cells that are missing in ``rows``, which are about to replace it.

    ``place_of`` returns the cell of a row. ``remedy`` says what to do. A CSV without the columns of ``place_of`` is of
    another version and may be replaced.
    """
    path = csv_path(path)
    if not path.is_file():
        return
    try:
        there = {place_of(row) for row in read_csv(path)}
    except KeyError:
        return
    lost = there - {place_of(row) for row in rows}
    if lost:
        raise ConfigError(f"{path} holds {len(lost)} cell(s) that are not in this run, and would be lost. {remedy}")


def rows_to_show(path: Path) -> list[dict[str, str]]:
    """Return the rows of a study's CSV, compressed or not, for its page; DataError where there are none."""
    path = csv_path(path)
    rows = read_csv(path) if path.is_file() else []
    if not rows:
        raise DataError(f"{path}: found no rows. Run the study with its runs or data sets first.")
    return rows


def published_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a published CSV; ConfigError where it is missing or lacks one of the ``columns``."""
    path = csv_path(path)
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} holds no {path.name}. Give the folder that another run published its results to (--report --results)."
        )
    rows = read_csv(path)
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing:
        raise ConfigError(f"{path} has no column {missing[0]}: it is of another version, or of another grid.")
    return [{name: row[name] for name in columns} for row in rows]
