"""What all grids of adaptations share: the drawn cases, one JSON file a cell, processes that work through cells."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from ..data.cached import CachedDataset, open_cache
from ..errors import ConfigError, DataError, StorageError, UserError
from ..files import write_json, write_text
from ..tasks.organ import OrganTask
from .adapt import MetaRun, choose_support

log = logging.getLogger(__name__)

#: of a recipe: settings that say where and how fast a run is made, not what it is
NOT_FROZEN = frozenset({"device", "threads", "cache", "track"})

JobT = TypeVar("JobT")
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


class DataCell(NamedCell, Protocol):
    """A named cell that is a data class."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


DataCellT = TypeVar("DataCellT", bound=DataCell)


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


def data_folders(root: Path) -> list[Path]:
    """Return the data set folders in ``root``; ConfigError where there are none."""
    found = sorted(p for p in root.iterdir() if (p / "dataset.json").exists()) if root.is_dir() else []
    if not found:
        raise ConfigError(
            f"data: {root} holds no folder with a dataset.json. Give the folder of your data set folders with --data."
        )
    return found


def query_cases(dataset: CachedDataset, number: int) -> list[str]:
    """Return the fixed query cases of a data set: the same for every organ, shot, draw and method."""
    patients = sorted({c.patient for c in dataset.cases})
    order = np.random.default_rng(20).permutation(len(patients))
    chosen = {patients[i] for i in order[:number]}
    return sorted(c.name for c in dataset.cases if c.patient in chosen)[:number]


def support_cases(dataset: CachedDataset, task: OrganTask, shots: int, draw: int, query: Sequence[str]) -> list[str]:
    """Return the support of a draw: the same for every method and number of steps, from patients outside the query list."""
    patient = {c.name: c.patient for c in dataset.cases}
    used = {patient[n] for n in query}
    pool = CachedDataset(dataset.path, dataset.meta)
    pool.cases = tuple(c for c in dataset.cases if c.patient not in used)
    return choose_support(pool, task, shots, 100 + draw)[0]


def hash_names(names: Sequence[str]) -> str:
    """Return a short hash of case names: which cases they were can be checked, not read."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


def hash_settings(*parts: BaseModel) -> str:
    """Return a short hash of settings, defaults and all: a later version may have others."""
    values = [part.model_dump(mode="json") for part in parts]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def cells_named(cells: Sequence[CellT], only: str) -> list[CellT]:
    """Return the ``cells`` whose name holds ``only``, or one of several such parts with commas between; ConfigError for none."""
    names = [cell.file.removesuffix(".json") for cell in cells]
    found = [cell for cell, name in zip(cells, names, strict=True) if any(part.strip() in name for part in only.split(","))]
    if not found:
        raise ConfigError(f"only: no cell's name holds {only!r}; a name is such as {names[0]!r}")
    return found


def work_through(
    pool: Executor,
    job: Callable[[JobT], None],
    jobs: Sequence[JobT],
    then: Callable[[JobT], Sequence[JobT]] | None = None,
) -> None:
    """Run ``job`` on each of ``jobs``, handed out in order, and on what ``then`` returns of one that is done; the first error is raised.

    After it, as after an interruption (Ctrl-C reaches the workers, too), what has not begun is dropped. Raises UserError where the system
    ended a worker.
    """
    running: dict[Future[None], JobT] = {}
    try:
        running |= {pool.submit(_run_job, job, each): each for each in jobs}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done = running.pop(future)
                future.result()
                running |= {pool.submit(_run_job, job, each): each for each in (then(done) if then else ())}
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BrokenProcessPool as error:
        raise UserError("the system ended a worker: was memory short? What is done is kept; try fewer workers.") from error
    finally:
        for future in running:
            future.cancel()


def _run_job(job: Callable[[JobT], None], argument: JobT) -> None:
    try:
        job(argument)
    except KeyboardInterrupt:
        os._exit(130)  # or the pool would hand this worker the next job


def processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, for forking one that has run torch can hang; they end when this process does."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with, (os.getpid(),))


def _end_with(parent: int) -> None:
    """End this process soon after ``parent`` has gone, however it went: its work would meet that of a grid that goes on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder``, the ``out`` of a grid, for this process within the block; ConfigError where another one has it.

    Drafts of cells that killed processes left are removed first (locked, so that no draft is in the making).
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another run is at work in {folder}. Wait for its end, or choose another folder.") from error
        for draft in (folder / "cells").glob(".*"):
            draft.unlink(missing_ok=True)
        yield


def read_cells(folder: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is written of the cells' ``files`` in ``folder``, in their order."""
    return [json.loads((folder / name).read_text()) for name in files if (folder / name).exists()]


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


def hold_settings(out: Path, given: Mapping[str, Any], earlier: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Raise ConfigError where ``out`` holds cells or meta-trained states of other settings than ``given``; note them there where it holds none.

    ``earlier`` brings what was noted to today's settings (see ``check_same``).
    """
    path = out / "settings.json"
    if path.exists():
        check_same(path, given, earlier)
    elif any((out / "cells").glob("*.json")) or any(out.glob("meta/*/*.json")):
        raise ConfigError(
            f"{out} holds cells, but no settings.json that says how they, or the states they start from, were made. Choose another --out."
        )
    else:
        write_json(path, given)


def check_same(path: Path, given: Mapping[str, Any], earlier: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Raise ConfigError where ``path``, the settings of a run's cells, is missing or tells of others than ``given``.

    ``earlier`` returns what is written there as today's code would write it: keys that came since have their default, which must change
    nothing. It may raise ValidationError, for settings of a version that this one cannot read.
    """
    try:
        known = earlier(read_settings(path))
    except ValidationError as error:
        raise ConfigError(
            f"{path} is of another version ({' '.join(str(error).split())[:200]}). Choose another --out."
        ) from error
    different = differences(given, known)
    if different:
        raise ConfigError(
            f"{path.parent} holds cells that were made under another setting of {different[0]}. Choose another --out."
        )


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the places, such as ``run.adapt.lr``, at which two JSON values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = sorted({*one, *other})
        return [p for key in keys for p in differences(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))]
    return [] if one == other else [place]


def check_keeps(
    path: Path, rows: Sequence[Mapping[str, Any]], place_of: Callable[[Mapping[str, Any]], tuple[str, ...]], remedy: str
) -> None:
    """Raise ConfigError where the CSV ``path`` holds cells that ``rows``, which are to replace it, lack.

    ``place_of`` tells the cell of a row. ``remedy``: what to do, in words. A CSV without its columns is of another version, and may be replaced.
    """
    if not path.is_file():
        return
    with open(path, newline="") as source:
        try:
            there = {place_of(row) for row in csv.DictReader(source)}
        except KeyError:
            return
    lost = there - {place_of(row) for row in rows}
    if lost:
        raise ConfigError(f"{path} holds {len(lost)} cell(s) that are not in this run, and would be lost. {remedy}")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a run's cells; ConfigError where they are missing."""
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} holds no {path.name} that says how its cells were made; they cannot stand beside others."
        )
    return json.loads(path.read_text())


def published_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV that another run of a grid published; ConfigError where it is missing or lacks one of the ``columns``."""
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} holds no {path.name}. Give the folder that another run published its results to (--report --results)."
        )
    with open(path, newline="") as source:
        reader = csv.DictReader(source)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f"{path} has no column {missing[0]}: it is of another version, or of another grid.")
        return [{name: row[name] for name in columns} for row in reader]


def training_seconds(folder: Path) -> float:
    """Return how long a meta-training has taken, all its parts together, as its last checkpoint says."""
    return float(json.loads((folder / "last.json").read_text())["seconds"])


@lru_cache(maxsize=4)
def open_run(folder: str) -> MetaRun:
    """Return a meta-trained run, kept in memory by the process."""
    return MetaRun.load(folder)


@lru_cache(maxsize=8)
def open_prepared(path: str) -> CachedDataset:
    """Return a prepared data set, kept open by the process."""
    return open_cache(path)
