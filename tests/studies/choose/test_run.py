"""The grid measures what is missing, resumes, and refuses leaks and test organs before anything is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.settings import load_settings
from metanas_med.errors import CheckpointError, ConfigError, DataError
from metanas_med.files import read_csv
from metanas_med.resources import find_resource
from metanas_med.search.scores import SCORES
from metanas_med.studies.choose.cells import grid
from metanas_med.studies.choose.page import publish
from metanas_med.studies.choose.run import outlook, run_choose
from metanas_med.studies.choose.scores import FOLDS
from metanas_med.studies.choose.settings import ChooseSettings

Study = Callable[..., ChooseSettings]


def test_cells_are_measured_published_and_resumed(study: Study, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study()
    assert outlook(settings).startswith("0 of 2 cells")
    run_choose(settings)
    assert outlook(settings).startswith("2 of 2 cells")
    text = publish(settings).read_text()
    assert "| batch=2 |" in text and f"| {FOLDS} |" in text
    rows = read_csv(settings.folder / "scores.csv")
    assert [r["configuration"] for r in rows] == ["default", "batch=2"]
    assert len({r["support_hash"] for r in rows}) == 1 and len({r["settings"] for r in rows}) == 2
    for row in rows:
        assert 0 <= float(row["dice_first"]) <= 1 and float(row["step_seconds"]) > 0 and int(row["multiply_adds"]) > 0
        assert row["checkpoint"] == MetaRun.load(tiny_run).sha256[:16] and row["code"] and row["seed"] == "0"
        assert {f"score {name}" for name in SCORES.names()} <= set(row)
        scans = [float(value) for value in row["scans_folds"].split()]
        assert len(scans) == 2 and float(row[f"score {FOLDS}"]) == pytest.approx(sum(scans) / 2, abs=1e-4)
    record = json.loads(next((settings.folder / "cells").glob("*default.json")).read_text())
    assert len(record["query"]) == 2 and not set(record["query"][0]) & set(record["support"])

    notes = {path: path.stat().st_mtime_ns for path in settings.folder.rglob("*.json")}
    monkeypatch.setattr("metanas_med.studies.choose.work.adapt_episode", None)
    run_choose(settings)
    assert {path: path.stat().st_mtime_ns for path in settings.folder.rglob("*.json")} == notes


def test_a_cell_is_the_same_whenever_it_is_measured(study: Study, tmp_path: Path) -> None:
    runs = [study(out=str(tmp_path / name), configurations=[{}, {"pipeline/rate": 3}]) for name in ("one", "two")]
    found = []
    for settings in runs:
        run_choose(settings)
        publish(settings)
        rows = read_csv(settings.folder / "scores.csv")
        found.append([{k: v for k, v in r.items() if "seconds" not in k} for r in rows])
    assert found[0] == found[1]


def test_configurations_get_equal_time(study: Study) -> None:
    """Steps follow the measured paces: half of the seconds a step give twice the steps."""
    settings = study(equal_time=True)
    settings.folder.mkdir()
    (settings.folder / "paces.json").write_text(json.dumps({"default": 1.0, "batch=2": 0.5}))
    run_choose(settings)
    publish(settings)
    assert [r["steps"] for r in read_csv(settings.folder / "scores.csv")] == ["2", "4"]

    measured = study(equal_time=True, out=str(settings.folder.parent / "measured"))
    run_choose(measured)
    paces = json.loads((measured.folder / "paces.json").read_text())
    assert paces["default"] == 1.0 and paces["batch=2"] > 0.05


def test_a_data_set_may_have_a_start_of_its_own(study: Study, tiny_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    settings = study(start=str(tmp_path / "nowhere"), starts={"Phantom06_Pair": str(other)})
    with pytest.raises(CheckpointError, match="nowhere"):
        run_choose(settings)
    run_choose(study(starts={"Phantom06_Pair": str(other)}))


def test_a_configuration_that_the_start_cannot_take_is_left_out(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    assert outlook(study(configurations=[{}, {"pipeline/batch": 4}, {"nowhere": "3"}])).startswith("0 of 2 cells")
    assert "nowhere=3 is left out" in caplog.text
    with pytest.raises(ConfigError, match="none of them but the default"):
        outlook(study(configurations=[{}, {"nowhere": "3"}]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"datasets": ["Nowhere"]}, ConfigError, "holds no Nowhere"),
        ({"datasets": ["Phantom01_Bean"]}, DataError, "Phantom01_Bean was to be held out"),
        ({"num_query": 5}, DataError, "left for a support of 2"),
        ({"only": "nothing"}, ConfigError, "no cell's name contains"),
        ({"datasets": [], "phantoms": ["Phantom99_No"], "phantom_cases": 2}, ConfigError, "no organ is called 'Phantom99_No'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_measured(
    study: Study, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = study(**changes)
    with pytest.raises(error, match=message):
        run_choose(settings)
    assert not [*settings.folder.glob("cells/*")]


def test_data_sets_of_test_groups_choose_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metanas_med.studies.benchmark.guards.claimed_by", lambda *entry: "heart")
    with pytest.raises(ConfigError, match="belongs to the benchmark's test group heart"):
        run_choose(study())


def test_other_sizes_are_refused_where_cells_exist(study: Study) -> None:
    run_choose(study())
    with pytest.raises(ConfigError, match="another setting of steps"):
        run_choose(study(steps=3))


def test_the_default_comes_first_and_nothing_twice(study: Study) -> None:
    with pytest.raises(ValueError, match="expected the default first"):
        study(configurations=[{"pipeline/batch": "2"}])
    with pytest.raises(ValueError, match="batch=4 is listed twice"):
        study(configurations=[{}, {"pipeline/batch": "4"}, {"pipeline/batch": 4}])


def test_phantoms_are_made_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    import metanas_med.studies.choose.data as data

    make = data.make_phantoms
    monkeypatch.setattr(data, "make_phantoms", lambda root, num_cases: make(root, num_cases=num_cases, scale=0.3))
    settings = study(datasets=[], phantoms=["Phantom09_Layers"], phantom_cases=4)
    data.make_missing_phantoms(settings)
    assert set(data.open_datasets(settings)) >= {"Phantom09_Layers", "Phantom06_Pair"}
    monkeypatch.setattr(data, "make_phantoms", None)
    data.make_missing_phantoms(settings)
    assert not [*settings.folder.glob(".tmp*")]


def test_the_shipped_grid_is_valid() -> None:
    settings = load_settings(find_resource("configs", "choose"), base=ChooseSettings)
    cells = grid(settings)
    assert len(cells) == 16 * 4 * 3 and len({cell.file for cell in cells}) == len(cells)
    assert {cell.draw for cell in cells[: 16 * 4]} == {0}
