"""Cells of a grid: their files, notes of failures, and waiting for one that another worker makes."""

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
    """Settings of a grid; its cells lie in ``out``/cells."""

    out: str


class InFile(Protocol):
    """A cell of a grid, known by its file, NAME.json."""

    @property
    def file(self) -> str: ...


class NamedCell(InFile, Protocol):
    """A cell of a grid, known by its name."""

    @property
    def name(self) -> str: ...


def cell_path(settings: InFolder, cell: NamedCell) -> Path:
    """Return the file of a cell."""
    return Path(settings.out) / "cells" / cell.file


def failure_path(settings: InFolder, cell: NamedCell) -> Path:
    """Return the note of why a cell failed."""
    return Path(settings.out) / "cells" / f"{cell.name}.failed"


def write_cell(settings: InFolder, cell: NamedCell, make: Callable[[], dict[str, Any]]) -> None:
    """Write what ``make`` returns as the cell's file, unless it is there; or a note of why it failed, so that one cell does not stop the others."""
    torch.set_num_threads(1)
    if cell_path(settings, cell).exists():
        return
    try:
        write_json(cell_path(settings, cell), make())
    except StorageError:
        raise  # the others could not be written, either
    except Exception as error:
        log.warning("%s failed", cell.name, exc_info=True)
        write_text(failure_path(settings, cell), f"{type(error).__name__}: {error}\n")


def wait_for(settings: InFolder, cell: NamedCell, seconds: float = 3600.0) -> None:
    """Return once another worker has made ``cell``: cells are handed out in order. DataError when it failed or does not come."""
    end = time.monotonic() + seconds
    while not cell_path(settings, cell).exists():
        if failure_path(settings, cell).exists() or time.monotonic() > end:
            raise DataError(f"the search that it rests on ({cell.name}) failed")
        time.sleep(0.2)


def check_failures(settings: InFolder, cells: Sequence[NamedCell]) -> None:
    """Raise DataError, with the first note, where cells that are not there have left notes of a failure."""
    failed = [failure_path(settings, cell) for cell in cells if not cell_path(settings, cell).exists()]
    failed = [path for path in failed if path.exists()]
    if failed:
        first = failed[0]
        raise DataError(
            f"{len(failed)} of {len(cells)} cells failed, the others are done. {first}: {first.read_text().strip()[:300]}"
        )


def cells_named(cells: Sequence[CellT], only: str) -> list[CellT]:
    """Return the ``cells`` whose name holds ``only``, or one of several such parts with commas between; ConfigError for none."""
    names = [cell.file.removesuffix(".json") for cell in cells]
    parts = [part.strip() for part in only.split(",") if part.strip()] or [""]  # a comma at the end must not choose all
    found = [cell for cell, name in zip(cells, names, strict=True) if any(part in name for part in parts)]
    if not found:
        raise ConfigError(f"only: no cell's name holds {only!r}; a name is such as {names[0]!r}")
    return found


def read_cells(folder: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is written of the cells' ``files`` in ``folder``, in their order."""
    return [json.loads((folder / name).read_text()) for name in files if (folder / name).exists()]
