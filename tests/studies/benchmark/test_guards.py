"""Leaks and settings that would make the benchmark invalid are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metanas_med.data.cache import open_caches
from metanas_med.data.cached import CachedDataset
from metanas_med.engine.meta_run import MetaRun
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import write_json
from metanas_med.studies.benchmark.cells import Cell
from metanas_med.studies.benchmark.guards import check_development, check_held_out, check_settings
from metanas_med.studies.benchmark.methods import METHODS
from metanas_med.studies.benchmark.pretrain import pretrain
from metanas_med.studies.benchmark.run import benchmark
from metanas_med.studies.benchmark.run_cell import run_cell
from metanas_med.studies.benchmark.settings import BenchmarkData, BenchmarkSettings
from metanas_med.tasks.episode import check_patients

from .made_up import write_config


def test_a_patient_on_both_sides_is_refused(settings: BenchmarkSettings) -> None:
    dataset = open_caches(Path(settings.run.cache))["Phantom06_Pair"]
    names = [c.name for c in dataset.cases]
    check_patients(dataset, names[:1], [n.name for n in dataset.cases if n.patient != dataset.cases[0].patient])
    with pytest.raises(DataError, match="1 patient.* are in both support and query"):
        check_patients(dataset, names[:2], names[:1])


def test_a_run_that_saw_the_organ_or_a_relative_is_refused(settings: BenchmarkSettings, tiny_run: Path) -> None:
    datasets = open_caches(Path(settings.run.cache))
    run = MetaRun.load(tiny_run)
    check_held_out(datasets, run, "Phantom06_Pair")
    with pytest.raises(DataError, match="Phantom01_Bean was to be held out, but meta-training saw Phantom01_Bean"):
        check_held_out(datasets, run, "Phantom01_Bean")
    datasets["Phantom06_Pair"].related = ("Phantom01_Bean",)  # as a card would say
    with pytest.raises(DataError, match="meta-training saw Phantom01_Bean"):
        check_held_out(datasets, run, "Phantom06_Pair")
    # a relative from another cache is known by its card
    prostate = CachedDataset(
        datasets["Phantom06_Pair"].path, {**datasets["Phantom06_Pair"].meta, "name": "Mine", "group": "prostate"}
    )
    run = replace(run, train_tasks=("Task05_Prostate/all",))
    with pytest.raises(DataError, match="meta-training saw Task05_Prostate"):
        check_held_out({"Mine": prostate}, run, "Mine")


def test_test_groups_run_with_the_files_settings_alone(settings: BenchmarkSettings) -> None:
    adapt = settings.run.adapt.model_copy(update={"lr": 0.5})
    changed = settings.model_copy(update={"run": settings.run.model_copy(update={"adapt": adapt})})
    with pytest.raises(ConfigError, match=r"run\.adapt\.lr differs from it"):
        check_settings(changed, settings, ["pair"])
    # marking the group as development on the command line does not help
    development = (settings.groups[0].model_copy(update={"development": True}),)
    with pytest.raises(ConfigError, match="differs from it"):
        check_settings(changed.model_copy(update={"groups": development}), settings, ["pair"])
    assert not (Path(settings.out) / "settings.json").exists()
    # nor does putting a test group's data under the name of a development group
    freed = settings.model_copy(update={"groups": (*settings.groups, development[0].model_copy(update={"name": "dev"}))})
    hidden = changed.model_copy(update={"groups": (settings.groups[0].model_copy(update={"name": "dev"}),)})
    with pytest.raises(ConfigError, match="differs from it"):
        check_settings(hidden, freed, ["dev"])
    assert not (Path(settings.out) / "settings.json").exists()
    elsewhere = settings.run.model_copy(update={"threads": 2, "cache": "other"})
    check_settings(settings.model_copy(update={"run": elsewhere}), settings, ["pair"])
    check_settings(settings, settings, ["pair"])
    # the file itself was changed after the first cells
    with pytest.raises(ConfigError, match=r"cells that were made under another setting of run\.adapt\.lr"):
        check_settings(changed, changed, ["pair"])


def test_development_groups_take_any_settings_but_a_folder_has_one_set(
    settings: BenchmarkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = settings.model_copy(update={"groups": (settings.groups[0].model_copy(update={"development": True}),)})
    adapt = settings.run.adapt.model_copy(update={"lr": 0.5})
    changed = frozen.model_copy(update={"run": frozen.run.model_copy(update={"adapt": adapt})})
    check_settings(changed, frozen, ["pair"])
    with pytest.raises(ConfigError, match=r"another setting of run\.adapt\.lr\. Choose another --out"):
        check_settings(frozen, frozen, ["pair"])
    # a method that was changed in the code is another choice, too
    table = METHODS | {"scratch": replace(METHODS["scratch"], learner={"lr": 1.0})}
    monkeypatch.setattr("metanas_med.studies.benchmark.methods.METHODS", table)
    with pytest.raises(ConfigError, match=r"another setting of table\.methods\.scratch"):
        check_settings(changed, frozen, ["pair"])


@pytest.mark.parametrize(
    ("dataset", "group"), [("Ext12_CardiacACDC", "heart"), ("Task02_Heart", "heart"), ("Task04_Hippocampus", "hippocampus")]
)
def test_no_test_group_is_marked_as_development(settings: BenchmarkSettings, tmp_path: Path, dataset: str, group: str) -> None:
    named = {"name": "mine", "hold_out": (dataset,), "data": (BenchmarkData(dataset=dataset),)}
    test = settings.groups[0].model_copy(update=named)
    check_development(settings.model_copy(update={"groups": (test,)}))
    wrong = settings.model_copy(update={"groups": (test.model_copy(update={"development": True}),)})
    config = write_config(wrong, tmp_path / "benchmark.yaml")
    with pytest.raises(
        ConfigError, match=f"mine is marked as development, but {dataset} belongs to .* test group {group}.*prostate"
    ):
        benchmark(config, dry_run=True)


def test_a_cell_with_a_leaking_state_is_refused(settings: BenchmarkSettings) -> None:
    leaking = settings.model_copy(update={"groups": (settings.groups[0].model_copy(update={"hold_out": ("Phantom01_Bean",)}),)})
    pretrain((leaking, ("pair", "metanas", 0)))
    with pytest.raises(DataError, match="was to be held out, but meta-training saw"):
        run_cell(leaking, Cell("pair", "Phantom06_Pair", "all", "metanas", 2, 0, 0, 0))


def test_a_default_that_has_changed_is_another_setting(settings: BenchmarkSettings) -> None:
    path = Path(settings.out) / "settings.json"
    check_settings(settings, settings, ["pair"])
    noted = json.loads(path.read_text())
    noted["run"]["adapt"]["ridge_voxels"] += 1
    write_json(path, noted)
    with pytest.raises(ConfigError, match=r"another setting of run\.adapt\.ridge_voxels"):
        check_settings(settings, settings, ["pair"])
    noted["run"]["adapt"]["decay_steps"] = 100
    write_json(path, noted)
    with pytest.raises(ConfigError, match="is of another version"):
        check_settings(settings, settings, ["pair"])
    # settings that lack a newer key
    run = settings.run.model_dump(mode="json", exclude={"device", "threads", "cache", "track", "pretext"})
    del run["learner"]["beta2"]
    write_json(path, {**json.loads(json.dumps(noted)), "run": run})
    check_settings(settings, settings, ["pair"])
