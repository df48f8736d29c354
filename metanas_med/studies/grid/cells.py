"""Cells of a grid: their files, notes of failures, and waiting for a cell of another worker."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ...errors import ConfigError, DataError, StorageError
from ...files import write_json, write_text

log = logging.getLogger(__name__)

CellT = TypeVar("CellT", bound="InFile")


class InFolder(Protocol):
    """Settings of a grid, whose cells are in ``out``/cells."""

    out: str


class InFile(Protocol):
    """A cell of a grid, identified by its file, NAME.json."""

    @property
    def file(self) -> str: ...


class NamedCell(InFile, Protocol):
    """A cell of a grid, identified by its name."""

    @property
    def name(self) -> str: ...


def cell_path(settings: InFolder, cell: NamedCell) -> Path:
    """Return the file of a cell."""
    return Path(settings.out) / "cells" / cell.file


def failure_path(settings: InFolder, cell: NamedCell) -> Path:
    """Return the file that says why a cell failed."""
    return Path(settings.out) / "cells" / f"{cell.name}.failed"


def write_cell(settings: InFolder, cell: NamedCell, make: Callable[[], dict[str, Any]]) -> None:
    """Write the cell's file from what ``make`` returns, unless it exists.

    Where ``make`` fails, write why, so that the other cells go on.
    """
    torch.set_num_threads(1)
    if cell_path(settings, cell).exists():
        return
    try:
        write_json(cell_path(settings, cell), make())
    except StorageError:
        raise  # the other cells could not be written, either
    except Exception as error:
        log.warning("%s failed", cell.name, exc_info=True)
        write_text(failure_path(settings, cell), f"{type(error).__name__}: {error}\n")


def wait_for(settings: InFolder, cell: NamedCell, seconds: float = 3600.0) -> None:
    """Return once another worker has made ``cell``; cells start in order.

    DataError where it failed or takes longer than ``seconds``.
    """
    end = time.monotonic() + seconds
    while not cell_path(settings, cell).exists():
        if failure_path(settings, cell).exists() or time.monotonic() > end:
            raise DataError(f"the search that it needs ({cell.name}) failed")
        time.sleep(0.2)


def check_failures(settings: InFolder, cells: Sequence[NamedCell]) -> None:
    """Raise DataError, with the first note, where missing cells have left notes of a failure."""
    failed = [failure_path(settings, cell) for cell in cells if not cell_path(settings, cell).exists()]
    failed = [path for path in failed if path.exists()]
    if failed:
        first = failed[0]
        raise DataError(
            f"{len(failed)} of {len(cells)} cells failed, the others are done. {first}: {first.read_text().strip()[:300]}"
        )


def cells_named(cells: Sequence[CellT], only: str) -> list[CellT]:
    """Return the ``cells`` whose name contains ``only``, or one of several parts separated by commas; ConfigError for none."""
    names = [cell.file.removesuffix(".json") for cell in cells]
    parts = [part.strip() for part in only.split(",") if part.strip()] or [""]  # a trailing comma must not choose all
    found = [cell for cell, name in zip(cells, names, strict=True) if any(part in name for part in parts)]
    if not found:
        raise ConfigError(f"only: no cell's name contains {only!r}; an example of a name is {names[0]!r}")
    return found


def read_cells(folder: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """Return the content of the cells' ``files`` that exist in ``folder``, in their order."""
    return [json.loads((folder / name).read_text()) for name in files if (folder / name).exists()]
