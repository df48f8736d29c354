"""The study trains recipes, adapts from their starts, resumes, and refuses leaks and wrong recipes before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.data.cards import load_cards
from metanas_med.engine.settings import Settings, load_settings
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import read_csv
from metanas_med.resources import find_resource
from metanas_med.studies.grid.training import DONE
from metanas_med.studies.start.jobs import FRESH
from metanas_med.studies.start.page import write_page
from metanas_med.studies.start.run import cells_of, compare_recipes, trainings_of
from metanas_med.studies.start.settings import StartSettings, flags

from .conftest import SMALL

Study = Callable[..., StartSettings]


def test_two_recipes_from_training_to_page(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study()
    rows = read_csv(compare_recipes(settings))
    found = {(r["recipe"], r["seed"], int(r["steps"])) for r in rows}
    assert found == {(name, seed, steps) for name, seed in (("plain", "0"), ("few", "0"), (FRESH, "")) for steps in (0, 1)}
    assert len({r["support_hash"] for r in rows}) == 1 and {r["dataset"] for r in rows} == {"Phantom06_Pair"}
    own = {r["recipe"]: r for r in rows}
    assert own["few"]["num_sets"] == "1" and own["plain"]["num_sets"] == "2" and own[FRESH]["train_seconds"] == "0"
    assert int(own["plain"]["iterations"]) > 0 and own["plain"]["base_width"] == "2" and own["plain"]["series"] == "time"
    assert 0 < int(own["plain"]["parameters"]) and own[FRESH]["checkpoint"] == own["plain"]["checkpoint"]
    assert all(0 <= float(r["dice"]) <= 1 for r in rows)
    assert "| plain |" in write_page(settings.folder).read_text()

    # a second run finds everything done; the final fold adds to the same rows
    notes = {path: path.stat().st_mtime_ns for path in settings.folder.rglob("*.json")}
    monkeypatch.setattr("metanas_med.studies.start.jobs.adapt_episode", None)
    monkeypatch.setattr("metanas_med.studies.start.jobs.train_to_the_end", None)
    assert read_csv(compare_recipes(settings)) == rows
    assert {path: path.stat().st_mtime_ns for path in settings.folder.rglob("*.json")} == notes
    monkeypatch.undo()
    more = read_csv(compare_recipes(settings, final=True))
    assert {r["recipe"] for r in more if r["final"] == "1"} == {"plain", FRESH} and len(more) == len(rows) + 4


def test_a_run_that_has_its_iterations_is_used(study: Study, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study(only="plain", steps=[0], train_seconds=0.004)
    folder = settings.folder / "runs" / "plain-a-seed0"
    folder.mkdir(parents=True)
    for name in ("last.json", "last.safetensors"):
        (folder / name).write_bytes((tiny_run / name).read_bytes())
    monkeypatch.setattr("metanas_med.studies.start.jobs.train_to_the_end", None)
    rows = read_csv(compare_recipes(settings))
    last = json.loads((folder / "last.json").read_text())
    assert {r["iterations"] for r in rows if r["recipe"] == "plain"} == {str(last["iteration"])}
    assert json.loads((folder / DONE).read_text())["code"] == last["code"]


def test_a_failure_leaves_the_other_recipes(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    import metanas_med.studies.start.jobs as jobs

    settings, train = study(steps=[0]), jobs.train_to_the_end

    def fails(own: Settings, folder: Path) -> None:
        if folder.name.startswith("few"):
            raise DataError("no luck")
        train(own, folder)

    monkeypatch.setattr(jobs, "train_to_the_end", fails)
    with pytest.raises(DataError, match="1 of 2 trainings failed.*no luck"):
        compare_recipes(settings)
    assert {r["recipe"] for r in read_csv(settings.folder / "start.csv")} == {"plain", FRESH}
    monkeypatch.undo()
    compare_recipes(settings)
    assert {r["recipe"] for r in read_csv(settings.folder / "start.csv")} == {"plain", "few", FRESH}


def test_a_leak_is_refused_before_anything_is_trained(study: Study) -> None:
    settings = study(folds={"a": {"hold_out": ["Phantom01_Bean"], "datasets": ["Phantom06_Pair"]}})
    with pytest.raises(DataError, match="Phantom06_Pair was to be held out"):
        compare_recipes(settings)
    assert not (settings.folder / "runs").exists()


def test_a_run_that_saw_the_organ_is_refused(study: Study, tiny_run: Path) -> None:
    folds = {"a": {"hold_out": ["Phantom01_Bean"], "datasets": ["Phantom01_Bean"]}}
    settings = study(only="plain", steps=[0], train_seconds=0.004, folds=folds)  # as many iterations as the run has
    folder = settings.folder / "runs" / "plain-a-seed0"
    folder.mkdir(parents=True)
    for name in ("last.json", "last.safetensors"):  # it held out the pair alone
        (folder / name).write_bytes((tiny_run / name).read_bytes())
    with pytest.raises(DataError, match="Phantom01_Bean was to be held out"):
        compare_recipes(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": "plian"}, "only: no recipe is called 'plian'.*plain"),
        ({"final": ["chosen"]}, "final: no recipe is called 'chosen'"),
        ({"folds": {"a": {"hold_out": ["Phantom06_Pair"], "datasets": ["Nowhere"]}}}, "holds no Nowhere"),
        ({"folds": {}}, "folds: none"),
        (
            {"recipes": {"bad": {"about": "", "overrides": {"meta": {"comit": 1}}}}, "final": []},
            "recipes.bad: .*meta.comit.*commit",
        ),
        ({"recipes": {"bad": {"about": "", "overrides": {"meta": {"commit": 3}}}}, "final": []}, "recipes.bad: .*meta.commit"),
        ({"recipes": {"bad": {"about": "", "config": "nowhere"}}, "final": []}, "recipes.bad: .*nowhere"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(study: Study, changes: dict[str, Any], message: str) -> None:
    settings = study(**changes)
    with pytest.raises(ConfigError, match=message):
        compare_recipes(settings)
    assert not (settings.folder / "runs").exists() and not (settings.folder / "start.csv").exists()


def test_an_unknown_pretraining_is_refused(study: Study) -> None:
    with pytest.raises(ValueError, match="no kind is called 'jiont'.*joint"):
        study(recipes={"bad": {"about": "", "pretraining": "jiont"}})


def test_other_sizes_are_refused_where_cells_exist(study: Study) -> None:
    compare_recipes(study(only="plain", steps=[0]))
    with pytest.raises(ConfigError, match="another setting of num_query"):
        compare_recipes(study(only="plain", steps=[0], num_query=2))


def test_rows_of_a_recipe_that_left_the_configuration_are_kept(study: Study) -> None:
    settings = study(only="plain", steps=[0])
    compare_recipes(settings)
    other = {"other": {"about": "the same, by another name", "overrides": SMALL}}
    rows = read_csv(compare_recipes(study(recipes=other, final=[], steps=[0])))
    assert [r["recipe"] for r in rows] == ["other", FRESH, "plain"] and [r["about"] for r in rows][1:] == ["", ""]


def test_fresh_weights_are_measured_once_a_width_and_fold(study: Study) -> None:
    wide = {**SMALL, "space": {**SMALL["space"], "base_width": 4, "max_width": 8}}
    plain = {"about": "", "overrides": SMALL, "seeds": [0, 1]}
    settings = study(
        recipes={"plain": plain, "wide": {"about": "", "overrides": wide}}, steps=[0, 20, 100], draws=3, long_draws=2
    )
    cells = cells_of(settings, trainings_of(settings))
    assert len(cells) == 5 * (3 + 3 + 2) and len({c.name for c in cells}) == len(cells)
    assert {(c.fresh, c.training.name) for c in cells if c.fresh} == {(2, "plain-a-seed0"), (4, "wide-a-seed0")}


def test_nested_settings_become_options() -> None:
    assert [*flags({"seed": 3, "meta": {"name": "reptile"}, "tasks": {"shots": [2]}})] == [
        *("--seed", "3", "--meta.name", '"reptile"', "--tasks.shots", "[2]")
    ]


def test_the_shipped_study_is_valid() -> None:
    settings = load_settings(find_resource("configs", "start"), base=StartSettings)
    cards = load_cards()
    names = {name for fold in settings.folds.values() for name in fold.datasets}
    names |= {name for recipe in settings.recipes.values() for name in recipe.datasets}
    assert names <= set(cards)
    for final in (False, True):
        for training in trainings_of(settings, final):
            own = settings.settings_of(training.recipe, training.fold, training.seed)
            assert own.threads == 1 and own.meta.max_seconds == 0 and own.meta.iterations > 100
            assert own.tasks.hold_out == settings.folds[training.fold].hold_out
    # what chooses settings is not what is reported at the end
    groups = {
        final: {cards[n].group for f in settings.folds.values() if f.final == final for n in f.datasets} for final in (0, 1)
    }
    assert groups[0] == {"prostate", "spine", "sarcoma", "brain_structures"} and not groups[0] & groups[1]
