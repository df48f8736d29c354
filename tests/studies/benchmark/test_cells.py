"""The grid of the benchmark: its cells, their turn, their predicted hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from metanas_med.data.cache import open_caches
from metanas_med.engine.settings import load_settings
from metanas_med.errors import ConfigError
from metanas_med.learner.alpha_gradients import SingleLevelSettings
from metanas_med.resources import find_resource
from metanas_med.studies.benchmark.cells import chosen, grid, predicted_hours, within_hours
from metanas_med.studies.benchmark.guards import check_development
from metanas_med.studies.benchmark.methods import METHODS
from metanas_med.studies.benchmark.settings import BenchmarkSettings
from metanas_med.studies.grid.cases import query_cases, support_cases
from metanas_med.tasks.organ import task_of

from .made_up import METHODS_HERE, write_config


def test_the_grid_has_every_requested_cell_once(settings: BenchmarkSettings) -> None:
    two = settings.model_copy(update={"draws": 2, "seeds": 2, "each_organ": ("metanas",)})
    cells = grid(two)
    assert len({c.name for c in cells}) == len(cells) == len(set(cells))
    count = {name: sum(c.method == name for c in cells) for name in METHODS_HERE}
    # metanas: 3 targets x 3 numbers of steps x 2 draws x 2 seeds; methods without search have two more lengths
    assert count == {"metanas": 36, "metanas-frozen": 20, "reptile": 20, "joint": 20, "scratch": 10, "scratch-10x": 2}
    place = {cell: number for number, cell in enumerate(cells)}
    for cell in cells:
        if cell.reference:
            assert place[cell.reference] < place[cell] and cell.reference.method == "metanas" and cell.times in (1, 10)
    assert [(c.seed, c.draw) for c in cells] == sorted((c.seed, c.draw) for c in cells)  # balanced, should it stop half-way
    # within a draw: the reference steps, equal gradients and seconds, no step, curves, longer times
    first = [c.time or c.steps for c in cells if (c.seed, c.draw) == (0, 0)]
    turns = [{20: 0, 4: 1, "x1": 1, 0: 2, 3: 3, "x10": 4}[length] for length in first]
    assert turns == sorted(turns) and set(turns) == {0, 1, 2, 3, 4}


def test_cells_are_chosen_by_name_with_the_searches_that_they_need(settings: BenchmarkSettings) -> None:
    only = settings.model_copy(update={"only": "scratch-10x"})
    assert [c.method for c in chosen(only)] == ["metanas", "scratch-10x"]
    both = settings.model_copy(update={"only": "scratch-10x, metanas-frozen"})
    assert {c.method for c in chosen(both)} == {"metanas", "metanas-frozen", "scratch-10x"}
    assert chosen(settings.model_copy(update={"only": "scratch-10x,"})) == chosen(only)
    assert chosen(settings.model_copy(update={"only": ""})) == grid(settings)
    with pytest.raises(
        ConfigError, match="no cell's name contains 'pair-both'; an example of a name is 'pair-Phantom06_Pair-all-metanas"
    ):
        chosen(settings.model_copy(update={"only": "pair-both"}))
    with pytest.raises(ConfigError, match="unknown method 'reptil'.*reptile"):
        grid(settings.model_copy(update={"methods": ("reptil",)}))


def test_hours_are_predicted_and_the_last_methods_are_left_out(settings: BenchmarkSettings) -> None:
    given = {"workers": 1, "step_seconds": 1.0, "case_seconds": 10.0, "methods": ("metanas",), "each_organ": ()}
    timed = settings.model_copy(update=given)
    cells = grid(timed)
    run = timed.run.meta.max_seconds or timed.meta_seconds
    # 20, 0 and 3 steps, of which 10, none and 2 count twice, for they search; two, two and one case
    assert predicted_hours(timed, cells, set(), {}) == pytest.approx((run + 35 + 50) / 3600)
    together = timed.run.adapt.model_copy(
        update={"alpha_gradient": SingleLevelSettings()}
    )  # alphas that step with the weights cost nothing on top
    single = timed.model_copy(update={"run": timed.run.model_copy(update={"adapt": together}), "meta_seconds": 100.0})
    assert predicted_hours(single, cells, set(), {}) == pytest.approx(((timed.run.meta.max_seconds or 100.0) + 23 + 50) / 3600)
    one = [c for c in grid(settings) if c.method in ("scratch", "scratch-10x") and c.steps == 20 and not c.draw]
    assert [(c.method, c.times) for c in one] == [("scratch", 0), ("scratch", 1), ("scratch-10x", 10)]
    # a time is that of a search
    assert [round(3600 * predicted_hours(timed, [c], set(), {})) for c in one] == [20 + 20, 30 + 20, 300 + 20]
    assert predicted_hours(timed, cells, {("pair", "metanas", 0)}, {("metanas", 20, 0.0): 5.0}) == pytest.approx(
        (5 + 5 + 30) / 3600
    )
    whole = settings.model_copy(update={"workers": 1})
    _, dropped, hours = within_hours(whole)
    assert not dropped and hours < 14
    kept, dropped, less = within_hours(whole.model_copy(update={"max_hours": hours * 0.9}))
    assert dropped and (*kept.methods, *reversed(dropped)) == tuple(METHODS_HERE) and less <= hours * 0.9


def test_supports_are_drawn_from_other_patients_than_the_query(settings: BenchmarkSettings) -> None:
    dataset = open_caches(Path(settings.run.cache))["Phantom06_Pair"]
    patient, task = {c.name: c.patient for c in dataset.cases}, task_of(dataset.name, dataset.labels, "all")
    query = query_cases(dataset, 3)
    drawn = [support_cases(dataset, task, 2, draw, query) for draw in range(8)]
    assert all(len(names) == 2 and not {patient[n] for n in names} & {patient[n] for n in query} for names in drawn)
    assert len({tuple(sorted(names)) for names in drawn}) > 1


def test_a_dry_run_shows_cells_and_hours_and_makes_nothing(settings: BenchmarkSettings, tmp_path: Path) -> None:
    from metanas_med.cli import main

    config = write_config(settings, tmp_path / "benchmark.yaml")
    assert main(["study", "benchmark", "--config", config, "--dry-run"]) == 0
    assert not Path(settings.out).exists() and not Path(settings.results).exists()
    assert main(["study", "benchmark", "--config", config, "--report"]) == 2  # nothing is done yet
    assert main(["study", "benchmark", "--config", config, "--only", "nothing"]) == 2


def test_the_shipped_configurations_are_valid() -> None:
    assert load_settings(find_resource("configs", "benchmark_full"), (), BenchmarkSettings).shots == (5, 1, 3, 10)
    settings = load_settings(find_resource("configs", "benchmark"), (), BenchmarkSettings)
    test = {g.name for g in settings.groups if not g.development}
    assert test == {"hippocampus", "heart", "head_neck"}
    assert {g.name for g in settings.groups} - test == {"prostate", "sarcoma"}
    assert settings.methods[0] == "metanas" and set(settings.methods) <= set(METHODS)
    assert grid(settings)
    for name in ("benchmark", "benchmark_full", "benchmark_unlabelled"):
        check_development(load_settings(find_resource("configs", name), (), BenchmarkSettings))


def test_a_method_that_cannot_run_here_is_left_out_and_named(
    settings: BenchmarkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metanas_med.studies.benchmark.methods.has_nnunet", lambda: False)
    monkeypatch.setattr("metanas_med.studies.benchmark.methods.has_learn2learn", lambda: False)
    kept, dropped, _ = within_hours(settings.model_copy(update={"methods": ("metanas", "nnunet-10x", "fomaml")}))
    assert kept.methods == ("metanas",)
    # what is left out for time does not depend on what is installed
    one = settings.model_copy(update={"methods": ("metanas", "nnunet-30min", "scratch"), "shots": (5,)})
    hours = within_hours(one)[2]
    assert hours > 0.5
    monkeypatch.setattr("metanas_med.studies.benchmark.methods.has_nnunet", lambda: True)
    assert within_hours(one)[2] == hours
    monkeypatch.setattr("metanas_med.studies.benchmark.methods.has_nnunet", lambda: False)
    assert dropped == {"nnunet-10x": "nnU-Net is not installed (extra: peers)", "fomaml": "learn2learn is not installed"}


def test_expensive_methods_have_fewer_cells(settings: BenchmarkSettings) -> None:
    other = settings.groups[0].model_copy(update={"name": "other"})
    expensive = {
        "methods": ("metanas", "nnunet-30min", "segresnet"),
        "shots": (5, 1),
        "draws": 3,
        "groups": (*settings.groups, other),
    }
    cells = grid(settings.model_copy(update=expensive))
    nnunet = [c for c in cells if c.method == "nnunet-30min"]
    assert [(c.group, c.shots, c.draw, c.steps, c.reference) for c in nnunet] == [
        ("other", 5, 0, 20, None),
        ("pair", 5, 0, 20, None),
    ]
    assert {c.group for c in cells if c.method == "segresnet"} == {"pair"}  # the first test group alone
