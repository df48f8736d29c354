"""The settings that every grid has."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ...config import Section


class GridSettings(Section):
    """Where a grid reads and writes, and on how many workers it runs."""

    data: str = "../shared/data"  #: a folder of data set folders
    out: str = ""  #: one JSON a cell, all made with one set of settings
    results: str = ""  #: CSV, page and figures; empty: ``out``
    workers: int = Field(default=2, ge=1)  #: cells at a time, one thread each
    launcher: str = "processes"  #: a registered launcher: processes, or serial
    only: str = ""  #: run only cells whose name contains this (or one of several, with commas), and what they need


class Folders(Section):
    """Where a study keeps its cells, and where it publishes what they show."""

    out: str = ""  #: one JSON a cell, all made with one set of settings
    results: str = ""  #: folder of CSV, page and figures; empty: ``out``

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def published(self) -> Path:
        """Return the folder of CSV, page and figures."""
        return Path(self.results or self.out)
