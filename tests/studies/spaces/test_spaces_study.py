"""The comparison of spaces and learners: a small grid on a phantom, its page, and what is refused before anything is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from metanas_med.engine.settings import load_settings
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import read_csv
from metanas_med.resources import find_resource
from metanas_med.space import SPACES, register_space
from metanas_med.studies.spaces.cells import ONE_PATH, Cell, grid, impossible, target_cost
from metanas_med.studies.spaces.learners import search_settings, timed_settings
from metanas_med.studies.spaces.page import lead_table, page, publish
from metanas_med.studies.spaces.run import outlook, run_spaces
from metanas_med.studies.spaces.settings import SpacesSettings, shipped_spaces
from metanas_med.studies.spaces.work import COLUMNS

Study = Callable[..., SpacesSettings]


@pytest.fixture
def study(phantoms: Path, phantom_cache: Path, tmp_path: Path) -> Study:
    """``study(key=value)``: two spaces of width 2, two learners, one seed, one random architecture, one step each."""

    def make(**changes: Any) -> SpacesSettings:
        values: dict[str, Any] = {
            "data": str(phantoms),
            "cache": str(phantom_cache),
            "out": str(tmp_path / "out"),
            "launcher": "serial",
            "dataset": "Phantom01_Bean",
            "spaces": ["vnas", "auto_nnunet"],
            "sizes": {name: {"base_width": 2, "max_width": 4, "levels": 2} for name in ("vnas", "auto_nnunet", "unet")},
            "learners": ["darts", "gdas"],
            "seeds": 1,
            "random": 1,
            "shots": 2,
            "num_query": 1,
            "search_steps": 1,
            "steps": 1,
            "timed_steps": 2,
            "batch": 1,
            "plan": {"view_voxels": 512, "adapt_voxels": 0},
        }
        return SpacesSettings.model_validate({**values, **changes})

    return make


def test_a_grid_is_measured_resumed_and_published(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metanas_med.studies.spaces.step.in_fresh_process", lambda job, *given: job(*given))
    settings = study()
    # vnas: plain, one path, two learners; both spaces: a random architecture and the U-Net
    assert outlook(settings).startswith("0 of 10 cells")
    run_spaces(settings)
    assert outlook(settings).startswith("10 of 10 cells")
    text = publish(settings).read_text()
    rows = read_csv(Path(settings.out) / "spaces.csv")
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 12
    refused = [row for row in rows if row["kind"] == "impossible"]
    assert {(row["space"], row["what"]) for row in refused} == {("auto_nnunet", "darts"), ("auto_nnunet", "gdas")}
    for row in rows[:10]:
        assert row["checkpoint"] == "none" and row["code"] and row["support_hash"] and row["seed"] == row["number"] == "0"
    found = {(row["space"], row["what"]): row for row in rows if row["kind"] == "search"}
    (random,) = [row for row in rows if row["kind"] == "random" and row["space"] == "vnas"]
    assert float(random["target"]) == float(found["vnas", "darts"]["multiply_adds"])
    assert abs(float(random["multiply_adds"]) / float(random["target"]) - 1) < 0.26
    assert "all rows are sampled" in text and "| vnas | gdas |" in text
    assert "0 of 1" in text or "1 of 1" in text

    notes = {path: path.stat().st_mtime_ns for path in Path(settings.out).rglob("*.json")}
    monkeypatch.setattr("metanas_med.studies.spaces.work.run_cell", None)
    run_spaces(settings)
    assert {path: path.stat().st_mtime_ns for path in Path(settings.out).rglob("*.json")} == notes
    with pytest.raises(ConfigError, match="another setting of steps"):
        run_spaces(study(steps=2))
    # the page can be written from the CSV alone
    empty = study(out=str(Path(settings.out) / "none"), results=settings.out)
    assert publish(empty).read_text() == text


def test_the_grid_has_every_space_of_the_package_and_none_of_tests(study: Study) -> None:
    with SPACES.extended():
        stranger: Any = type("Stranger", (cast(type, SPACES.entry("vnas").factory),), {"__module__": "tests.somewhere"})
        register_space("stranger", settings=SPACES.entry("vnas").settings)(stranger)
        assert "stranger" not in shipped_spaces()
    assert {"unet_supernet", "fewshot"} <= set(shipped_spaces()) and not {"unet", "planted"} & set(shipped_spaces())
    shipped = load_settings(find_resource("configs", "spaces"), [], SpacesSettings)
    cells = grid(shipped)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.space for cell in cells} == set(shipped_spaces())
    legal = {(cell.space, cell.what) for cell in cells if cell.kind == "search"}
    assert len(legal) + len(impossible(shipped)) == len(shipped_spaces()) * 5
    # candidates one by one for what a learner saves, merged for the floor
    steps = {(cell.what, cell.edge) for cell in cells if cell.kind == "step" and cell.space == "unet_supernet"}
    assert {(ONE_PATH, "darts"), ("gdas", "merged"), ("proxyless", "darts")} <= steps
    # a grid that stops early has every space with the first seed
    order = [cell.number for cell in cells if cell.kind == "search"]
    assert order == sorted(order)


def test_learners_are_the_presets() -> None:
    settings = SpacesSettings()
    for name in settings.learners:
        search, timed = search_settings(settings, name), timed_settings(settings, name)
        assert search.search_steps(search.steps) == settings.search_steps and timed.soft
        assert search.relaxation == timed.relaxation
    assert search_settings(settings, "pc_darts").relaxation.name == "partial"
    assert search_settings(settings, "single_path").discretizer.name == "evolution"


def test_what_cannot_be_measured_is_refused_first(study: Study) -> None:
    for changes, message in (
        ({"spaces": ["vnaz"]}, "vnas"),
        ({"learners": ["dartz"]}, "darts"),
        ({"sizes": {"vnas": {"levels": 0}}}, "sizes: vnas"),
        ({"dataset": "Phantom99"}, "Phantom99"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_spaces(study(**changes))
    with pytest.raises(DataError, match="patient"):
        run_spaces(study(shots=6))


def test_the_page_judges_memory_by_paths() -> None:
    def step(what: str, size: float, edge: str = "darts") -> dict[str, str]:
        own = {
            "kind": "step",
            "space": "s",
            "what": what,
            "number": "0",
            "edge": edge,
            "step_seconds": "0.5",
            "step_mb": str(size),
            "held_mb": "1",
        }
        return {**dict.fromkeys(COLUMNS, ""), **own}

    rows = [step("plain", 10), step(ONE_PATH, 8), step("darts", 30), step("gdas", 8.8), step("proxyless", 20)]
    text = page(rows)
    assert "Within 1.15 times their paths: 1 of 2." in text and "Above: s with proxyless (1.25)." in text
    assert "| s | darts | 0.500 | 1.000 | 30.0 | 3.000 | 1.0 |" in text
    merged = page([step("plain", 10, "merged"), step(ONE_PATH, 8, "merged"), step("gdas", 16, "merged")])
    assert "No learner that samples was measured." in merged


def test_random_architectures_take_turns_at_the_costs_that_were_found(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"search": [{"multiply_adds": 100}, {"multiply_adds": 300}], "random": [{"multiply_adds": 50}]}
    monkeypatch.setattr("metanas_med.studies.spaces.cells.results_of", lambda settings, kind, space: rows[kind])
    targets = [target_cost(study(), Cell("random", "vnas", "", number)) for number in range(3)]
    assert targets == [100, 300, 100] and target_cost(study(), Cell("unet", "vnas", "", 0)) == 200
    rows["search"] = []
    assert target_cost(study(), Cell("random", "vnas", "", 0)) is None
    assert target_cost(study(), Cell("unet", "vnas", "", 0)) == 50


def test_leads_over_random_architectures_are_averaged_over_spaces() -> None:
    def row(kind: str, space: str, what: str, dice: float) -> dict[str, str]:
        return {**dict.fromkeys(COLUMNS, ""), "kind": kind, "space": space, "what": what, "dice": str(dice)}

    rows = [row("random", space, "", dice) for space in "abc" for dice in (0.4, 0.6)]
    rows += [row("search", "a", "darts", 0.5), row("search", "a", "darts", 0.54), row("search", "b", "darts", 0.56)]
    rows += [row("unet", "a", "", 0.5), row("unet", "b", "", 0.4), row("unet", "c", "", 0.9)]
    darts, unet = lead_table(rows)
    # leads of 0.02 and 0.06: mean 0.04, standard error 0.02, t(0.975, 1) = 12.706
    assert darts == {"network": "darts", "lead": "+0.040", "interval": "-0.214 to +0.294", "ahead": "2 of 2"}
    assert unet["lead"] == "-0.050" and unet["ahead"] == "0 of 2"
