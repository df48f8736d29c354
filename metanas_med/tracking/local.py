"""Local files: the complete record of a run, which Weights & Biases only mirrors."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from ..files import atomic_path, write_bytes, write_csv, write_json, write_text
from .base import plain

log = logging.getLogger(__name__)


class LocalTracker:
    """Writes ``config.json``, ``<counter>.jsonl`` and ``.csv``, ``figures/``, ``artifacts.json``, ``summary.json`` in ``folder``.

    With ``resume`` existing rows are kept, except a last line that a crash cut short; without it they are replaced.
    """

    def __init__(self, folder: Path | str, resume: bool = False) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._streams: dict[str, TextIO] = {}
        self._counters: set[str] = set()
        self._merged: set[str] = set()
        if resume:
            self._counters = {path.stem for path in self.folder.glob("[!.]*.jsonl")}  # not an unfinished one
            for counter in self._counters:
                _repair(self._rows_path(counter), counter)
        self._resume = resume

    def _rows_path(self, counter: str) -> Path:
        return self.folder / f"{safe_name(counter)}.jsonl"

    def config(self, values: Mapping[str, Any]) -> None:
        write_json(self.folder / "config.json", plain(values))

    def metrics(self, counter: str, value: int, row: Mapping[str, float]) -> None:
        stream = self._streams.get(counter)
        if stream is None:
            # replace rows of an earlier run in the same folder, unless this run continues it
            known = self._resume or counter in self._counters
            stream = self._streams[counter] = open(self._rows_path(counter), "a" if known else "w", encoding="utf-8")
            self._counters.add(counter)
        stream.write(json.dumps({counter: int(value), **plain(row)}, allow_nan=False) + "\n")
        stream.flush()

    def rewind(self, counter: str, value: int) -> None:
        stream = self._streams.pop(counter, None)
        if stream is not None:
            stream.close()
        path = self._rows_path(counter)
        if path.exists():
            kept = [row for row in read_rows(path) if row[counter] < value]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
            self._counters.add(counter)

    def figure(self, name: str, path: Path) -> None:
        path = Path(path)
        target = self.folder / "figures" / (safe_name(name) + path.suffix)
        if target.exists() and target.samefile(path):
            return
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)

    def artifact(self, name: str, path: Path, kind: str) -> None:
        path, folder = Path(path).resolve(), self.folder.resolve()
        place = path.relative_to(folder) if path.is_relative_to(folder) else path
        self._merge("artifacts.json", {name: {"kind": kind, "path": place.as_posix()}})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._merge("summary.json", plain(values))

    def _merge(self, name: str, values: Mapping[str, Any]) -> None:
        path = self.folder / name
        keep = self._resume or name in self._merged
        old: Any = {}
        if keep and path.exists():
            try:
                old = dict(json.loads(path.read_text()))
            except (ValueError, TypeError):
                log.warning("%s was damaged; it is written again, without values of earlier parts of the run", path)
        self._merged.add(name)
        write_json(path, old | dict(values))

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        for counter in sorted(self._counters):
            path = self._rows_path(counter)
            rows = read_rows(path)
            write_csv(path.with_suffix(".csv"), rows, list(dict.fromkeys(key for row in rows for key in row)))


def safe_name(name: str) -> str:
    """Return ``name`` as a file name of letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "unnamed"


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a ``.jsonl`` file, without a last line that a crash cut short."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise
    return rows


def _repair(path: Path, counter: str) -> None:
    """Remove a last line that a crash cut short; other damaged rows are removed after a copy and a warning."""
    data = path.read_bytes()
    lines = data.decode(errors="replace").splitlines(keepends=True)
    kept, damaged = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            int(row[counter])
            kept.append(json.dumps(row) + "\n")
        except (ValueError, KeyError, TypeError):
            damaged += number < len(lines)
    if damaged:
        copy = path.with_name(path.name + ".damaged")
        write_bytes(copy, data)
        log.warning("%s: left out %d damaged row(s); %s is the file as it was", path, damaged, copy)
    if "".join(kept).encode() != data:
        write_text(path, "".join(kept))
