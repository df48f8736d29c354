"""What all grids share: settings of a folder, published cells, cells of other workers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metanas_med.data.settings import PlanSettings
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import write_csv, write_json, write_text
from metanas_med.studies.grid.cells import cell_path, failure_path, wait_for
from metanas_med.studies.grid.frozen import hold_settings
from metanas_med.studies.grid.published import check_keeps


def test_a_folder_holds_cells_of_one_set_of_settings(tmp_path: Path) -> None:
    def today(noted: dict[str, Any]) -> dict[str, Any]:
        if noted.pop("gone", None):
            PlanSettings.model_validate({"margin": -1.0})
        return {"new": 0, **noted}

    hold_settings(tmp_path, {"lr": 1, "new": 0}, today)
    (tmp_path / "settings.json").write_text('{"lr": 1, "gone": 0}')  # older: one key was added later, and one removed
    hold_settings(tmp_path, {"lr": 1, "new": 0}, today)
    for given, named in (({"lr": 2, "new": 0}, "lr"), ({"lr": 1, "new": 3}, "new")):
        with pytest.raises(ConfigError, match=f"made under another setting of {named}"):
            hold_settings(tmp_path, given, today)
    (tmp_path / "settings.json").write_text('{"lr": 1, "gone": 5}')
    with pytest.raises(ConfigError, match="is of another version"):
        hold_settings(tmp_path, {"lr": 1, "new": 0}, today)
    (tmp_path / "settings.json").unlink()
    write_json(tmp_path / "meta" / "group" / "last.json", {})  # an unfinished state, and no cell yet
    with pytest.raises(ConfigError, match="holds cells, but no settings.json"):
        hold_settings(tmp_path, {"lr": 1, "new": 0}, today)
    (tmp_path / "meta" / "group" / "last.json").unlink()
    write_json(tmp_path / "cells" / "a.json", {})
    with pytest.raises(ConfigError, match="holds cells, but no settings.json"):
        hold_settings(tmp_path, {"lr": 1, "new": 0}, today)


def test_published_cells_are_not_lost(tmp_path: Path) -> None:
    def place(row: Any) -> tuple[str, ...]:
        return (str(row["organ"]), str(row["steps"]))

    path, rows = tmp_path / "rows.csv", [{"organ": "a", "steps": k, "dice": 0.5} for k in (0, 20)]
    check_keeps(path, rows, place, "Merge.")
    write_csv(path, rows, ("organ", "steps", "dice"))
    check_keeps(path, [*rows, {"organ": "b", "steps": 0}], place, "Merge.")
    with pytest.raises(ConfigError, match=r"holds 1 cell\(s\) that are not in this run.*Merge\."):
        check_keeps(path, rows[:1], place, "Merge.")
    # a compressed table, which replaces the plain one, is protected as well
    write_csv(tmp_path / "rows.csv.xz", rows, ("organ", "steps", "dice"))
    assert not path.exists()
    with pytest.raises(ConfigError, match=r"rows\.csv\.xz holds 1 cell\(s\)"):
        check_keeps(path, rows[:1], place, "Merge.")
    write_csv(path, [{"other": 1}], ("other",))
    check_keeps(path, rows[:1], place, "Merge.")


def test_waiting_for_a_cell_ends_when_it_fails(tmp_path: Path) -> None:
    settings: Any
    cell: Any
    settings, cell = SimpleNamespace(out=str(tmp_path)), SimpleNamespace(name="a", file="a.json")
    with pytest.raises(DataError, match=r"the search that it needs \(a\) failed"):
        wait_for(settings, cell, 0.0)
    write_text(failure_path(settings, cell), "why")
    with pytest.raises(DataError, match="failed"):
        wait_for(settings, cell)
    write_json(cell_path(settings, cell), {})
    wait_for(settings, cell)
