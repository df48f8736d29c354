"""The study gives every method its time, resumes, and refuses starts that have seen the organs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.engine.adapt import adapt
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.minutes.run import adapt_minutes
from metanas_med.engine.settings import load_settings
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import read_csv
from metanas_med.resources import find_resource
from metanas_med.studies.minutes.cells import Cell, grid, predicted_hours
from metanas_med.studies.minutes.note import Told, told_by
from metanas_med.studies.minutes.page import publish
from metanas_med.studies.minutes.run import outlook, run_minutes
from metanas_med.studies.minutes.settings import MinutesStudySettings
from metanas_med.studies.minutes.work import start_of

Study = Callable[..., MinutesStudySettings]


def few_steps(*given: Any, **more: Any) -> dict[str, Any]:
    """Adapt by two steps in place of a time budget, which a busy machine could not keep; the arguments must fit."""
    asked = inspect.signature(adapt_minutes).bind(*given, **more).arguments
    how = asked["settings"].model_copy(update={"steps": 2})
    return adapt(asked["run"], asked["dataset"], asked["out"], how)


def test_methods_are_measured_and_a_second_run_resumes(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study()
    monkeypatch.setattr("metanas_med.studies.minutes.work.adapt_minutes", few_steps)
    run_minutes(settings)
    assert "2 of 2 cells are done" in outlook(settings)
    publish(settings)
    rows = read_csv(settings.folder / "minutes.csv")
    assert [r["method"] for r in rows] == ["minutes", "fresh"] and len({r["support_hash"] for r in rows}) == 1
    for row in rows:
        assert 0 <= float(row["dice"]) <= 1 and int(row["steps"]) > 0 and row["code"] and row["checkpoint"]
        assert row["threads"] == "1" and len(row["dice_by_scan"].split()) == 1
    assert rows[0]["chosen"] == "default" and rows[1]["chosen"] == "" and rows[1]["tta"] == "1"
    records = [json.loads(path.read_text()) for path in (settings.folder / "cells").glob("*.json")]
    assert not any(set(record["support"]) & set(record["query"]) for record in records)
    assert not [*settings.folder.glob(".tmp*")]

    monkeypatch.setattr("metanas_med.studies.minutes.work.adapt_minutes", None)
    run_minutes(settings)
    publish(settings)
    assert read_csv(settings.folder / "minutes.csv") == rows


def test_baselines_choose_nothing(study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import metanas_med.studies.minutes.work as work

    asked = []

    def stop(given: Any, dataset: Any, out: Path, minutes: float, how: Any, search: Any, portfolio: Any) -> None:
        asked.append((given, minutes, how, search, portfolio))
        raise DataError("enough")

    monkeypatch.setattr(work, "adapt_minutes", stop)
    settings = study(methods=["minutes", "default", "fresh", "joint"], budgets=[90])
    with pytest.raises(DataError, match="4 of 4 cells failed.*enough"):
        run_minutes(settings)
    assert [each[1] for each in asked] == [1.5] * 4 and all(each[2].evaluate == 0 for each in asked)
    assert [each[3].max_candidates for each in asked] == [settings.search.max_candidates, 1, 1, 1]
    # the same scans, learner and views; a search gets the folder where the portfolio is
    assert len({each[2].support for each in asked}) == len({each[2].learner.model_dump_json() for each in asked}) == 1
    assert [each[4] for each in asked] == [Path(settings.start), None, None, None]


def test_fresh_weights_differ_by_draw_alone(study: Study, tiny_run: Path) -> None:
    first, again, other = (start_of(study(), Cell("fresh", "Phantom06_Pair", 2, 3, draw)) for draw in (0, 0, 1))
    name = next(iter(first.state.weights))
    assert first.state.weights[name].equal(again.state.weights[name])
    assert not first.state.weights[name].equal(other.state.weights[name])
    assert first.settings.space == MetaRun.load(tiny_run).settings.space
    alone = start_of(study(joint="", unet={"base_width": 4, "levels": 3}), Cell("fresh", "Phantom06_Pair", 2, 3, 0))
    assert alone.settings.space.name == "unet" and alone.settings.space.base_width == 4 and not alone.train_tasks


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"datasets": ["Nowhere"]}, ConfigError, "holds no Nowhere"),
        ({"datasets": ["Phantom01_Bean"]}, DataError, "Phantom01_Bean was to be held out"),
        ({"num_query": 5}, DataError, "left for a support of 2"),
        ({"long_datasets": ["Elsewhere"]}, ConfigError, "Elsewhere is not one of datasets"),
        ({"only": "nothing"}, ConfigError, "no cell's name contains"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_measured(
    study: Study, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = study(**changes)
    with pytest.raises(error, match=message):
        run_minutes(settings)
    assert not [*settings.folder.glob("cells/*")]


def test_wrong_values_are_refused(study: Study) -> None:
    with pytest.raises(ValueError, match="no method is called 'nnunt'"):
        study(methods=["nnunt"])
    with pytest.raises(ValueError, match="expected seconds above 0"):
        study(budgets=[0])
    with pytest.raises(ValueError, match="nothing"):
        _ = study(alone={"nothing": 1}).search_alone


def test_what_a_note_says_becomes_columns() -> None:
    assert told_by({}) == Told("default")
    expected = {"dice": 0.123456789, "low": None, "high": 0.5}
    assert told_by({"minutes": {"chosen": "levels=3", "expected": expected}}) == Told("levels=3", 0.12346, "", 0.5)
    assert told_by({"minutes": {"chosen": {"name": "width=8"}}}) == Told("width=8")


def test_missing_draws_are_the_last(study: Study) -> None:
    sizes = {"draws": 2, "budgets": [10, 300], "one_scan_budgets": [60], "long_budgets": [1800], "long_datasets": ["A"]}
    cells = grid(study(datasets=["A", "B"], methods=["minutes", "nnunet"], **sizes))
    assert [c.draw for c in cells] == sorted(c.draw for c in cells)
    first = [c for c in cells if c.draw == 0]
    assert {(c.dataset, c.seconds) for c in first if c.method == "minutes"} == {
        *((name, seconds) for name in "AB" for seconds in (10, 60, 300)),
        ("A", 1800),
    }
    assert [(c.dataset, c.seconds, c.draw) for c in cells if c.method == "nnunet"] == [("A", 1800, 0)]
    assert len({c.file for c in cells}) == len(cells)


def test_the_shipped_study_is_valid_and_takes_at_most_seven_hours() -> None:
    settings = load_settings(find_resource("configs", "minutes"), base=MinutesStudySettings)
    assert predicted_hours(grid(settings)) < 7 and settings.search_alone.max_candidates == 1
    assert {c.shots for c in grid(settings)} == {5, 1}
