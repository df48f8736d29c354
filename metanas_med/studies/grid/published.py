"""Results of a grid that lie elsewhere: published, kept from loss, and taken over by another run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from ...errors import ConfigError
from ...files import csv_path, read_csv, write_json, write_text
from .cells import InFolder, NamedCell, cell_path


class DataCell(NamedCell, Protocol):
    """A named cell that is a data class."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


DataCellT = TypeVar("DataCellT", bound=DataCell)


@dataclass(frozen=True)
class Merged:
    """What came of taking over another run's cells: how many were ``taken``, how many were ``there`` already, and how many ``others`` the grid
    that was asked for does not hold."""

    taken: int
    there: int
    others: int

    @property
    def words(self) -> str:
        others = f"; {self.others} others were not asked for" if self.others else ""
        return f"{self.taken} cells taken, {self.there} were there{others}"


def take_cells(settings: InFolder, records: Mapping[DataCellT, Mapping[str, Any]], offered: int) -> Merged:
    """Write the ``records`` of cells that another run published as files, but for cells that are there; ``offered``: how many it published."""
    new = [cell for cell in records if not cell_path(settings, cell).exists()]
    for cell in new:
        write_json(cell_path(settings, cell), {"cell": asdict(cell), **records[cell]})
    return Merged(len(new), len(records) - len(new), offered - len(records))


def publish_settings(settings: InFolder, path: Path) -> None:
    """Copy the settings of a run's cells to ``path``, beside its results: by them another run can take the cells over."""
    if (kept := Path(settings.out) / "settings.json").exists():
        write_text(path, kept.read_text())


def check_keeps(
    path: Path, rows: Sequence[Mapping[str, Any]], place_of: Callable[[Mapping[str, Any]], tuple[str, ...]], remedy: str
) -> None:
    """Raise ConfigError where the CSV ``path`` holds cells that ``rows``, which are to replace it, lack.

    ``place_of`` tells the cell of a row. ``remedy``: what to do, in words. A CSV without its columns is of another version, and may be replaced.
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


def published_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV that another run of a grid published; ConfigError where it is missing or lacks one of the ``columns``."""
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
