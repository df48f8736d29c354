"""The comparison on held-out organs: fair cells, guards, a report that goes by its CSV."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from metanas_med.data.cached import open_cache
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import write_csv, write_json
from metanas_med.studies import first_run as module
from metanas_med.studies.first_run import Cell, cells, chosen_cells, run_cell
from metanas_med.studies.first_run_report import write_report
from metanas_med.studies.first_run_settings import FirstRunSettings
from metanas_med.studies.grid import failure_path, query_cases


@pytest.fixture
def settings(tiny_settings: Any, tmp_path: Path) -> FirstRunSettings:
    run = tiny_settings(**{"meta.iterations": 2, "meta.batch": 1, "meta.num_validation": 0, "adapt.cross_fit": False})
    group = {
        "name": "pair",
        "hold_out": ["Phantom06_Pair"],
        "dataset": "Phantom06_Pair",
        "organs": ["left", "all"],
        "num_query": 2,
    }
    return FirstRunSettings.model_validate(
        {
            "out": str(tmp_path / "out"),
            "results": str(tmp_path / "results"),
            "groups": [group],
            "shots": [2],
            "draws": 1,
            "steps": [0, 4],
            "variant_steps": [4],
            "scratch_steps": [4, 200],
            "run": run.model_dump(),
            "plan": {"view_voxels": 400},
        }
    )


def done(settings: FirstRunSettings, cell: Cell) -> dict[str, Any]:
    found = run_cell(settings, cell)
    write_json(Path(settings.out) / "cells" / cell.file, found)
    return found


def test_searches_come_before_what_waits_for_them_and_the_longest_training_last(settings: FirstRunSettings) -> None:
    order = list(cells(settings))
    assert len(order) == len(set(order)) == 2 * (2 + 2 + 4)
    assert [c.steps for c in order[-2:]] == [200, 200] and all(c.steps < 200 for c in order[:-2])
    for number, cell in enumerate(order):
        if cell.method.startswith("scratch"):
            search = Cell(cell.group, cell.organ, cell.shots, cell.draw, "metanas", 4)
            assert search in order[:number]


def test_a_cell_can_be_run_alone_with_the_search_that_it_rests_on(settings: FirstRunSettings) -> None:
    only = settings.model_copy(update={"only": "pair-all-2shot-draw0-scratch-200"})
    assert [(c.method, c.steps) for c in chosen_cells(only)] == [("metanas", 4), ("scratch", 200)]
    assert chosen_cells(settings) == list(cells(settings))
    with pytest.raises(
        ConfigError, match="no cell's name holds 'pair-both'; a name is such as 'pair-left-2shot-draw0-metanas-0'"
    ):
        chosen_cells(settings.model_copy(update={"only": "pair-both"}))


def test_a_group_is_compared_and_reported(settings: FirstRunSettings) -> None:
    module._train((settings, settings.groups[0]))
    note = json.loads((Path(settings.out) / "meta" / "pair" / "done.json").read_text())
    assert note["seconds"] > 0 and note["code"]
    ours = done(settings, Cell("pair", "all", 2, 0, "metanas", 4))
    scratch = done(settings, Cell("pair", "all", 2, 0, "scratch", 4))
    frozen = done(settings, Cell("pair", "all", 2, 0, "metanas-frozen", 4))
    # the same scans, the same architecture, other weights
    assert ours["support"] == scratch["support"] and ours["genotype"] == scratch["genotype"]
    assert ours["report"]["losses"] != scratch["report"]["losses"]
    dataset = open_cache(Path(settings.run.cache) / "Phantom06_Pair.h5")
    patient = {c.name: c.patient for c in dataset.cases}
    query = query_cases(dataset, 2)
    assert sorted(ours["scores"]) == query
    assert not {patient[n] for n in query} & {patient[n] for n in ours["support"]}
    assert [row["label"] for row in ours["rows"]] == ["left", "right"]
    rows = module.rows_of(settings)
    assert len(rows) == 6 and len({row["architecture"] for row in rows if row["method"] != "metanas-frozen"}) == 1
    assert all(row["checkpoint"] and row["code"] and row["support_hash"] == rows[0]["support_hash"] for row in rows)
    results = Path(settings.results)
    write_csv(results / "first_run.csv", rows, module.COLUMNS)
    page = write_report(results, settings, 16).read_text()
    assert "**unfinished: 3 of 16 cells**" in page
    assert "from 2 scan(s), 1 draw(s) each" in page and "Reached?" not in page  # no cell speaks to the aims
    fresh = [rows[0] | {"method": "scratch", "shots": 5, "steps": 100}, rows[0] | {"method": "metanas", "shots": 5, "steps": 20}]
    one_scan = fresh[0] | {"shots": 1, "steps": 500}  # says nothing of the goal, which is of five
    write_csv(results / "first_run.csv", [*fresh, one_scan], module.COLUMNS)
    assert (
        "At 5 scans: metanas after 20 steps against scratch after 100 (must); diff"
        in write_report(results, settings, 3).read_text()
    )
    write_csv(results / "first_run.csv", rows, module.COLUMNS)
    page = write_report(results, settings, 16).read_text()
    assert f"| {int(ours['genotype'] == frozen['genotype'])} of 1 |" in page  # the architecture as it was meta-learned
    with open(results / "first_run.csv", newline="") as source:
        kept = [float(r["dice"]) for r in csv.DictReader(source) if r["method"] == "metanas"]
    assert f"| metanas | 4 | {sum(kept) / 2:.3f} [" in page
    busy = round(note["processor_seconds"])
    assert f"Meta-training without pair: {round(note['seconds'])} s on one core, {busy} s of it the processor's." in page
    assert "Adapted on: cpu." in page and " (cpu) |" not in page
    elsewhere = [row | {"device": "cuda"} if row["method"] == "scratch" else row for row in rows]
    write_csv(results / "first_run.csv", elsewhere, module.COLUMNS)
    page = write_report(results, settings, 16).read_text()
    assert "Adapted on: cpu, cuda." in page
    assert [re.findall(r"\d \((cpu|cuda)\) \|", line) for line in page.splitlines() if line.startswith("| scratch |")] == [
        ["cuda"]
    ]
    # of a run that was resumed, the processor's seconds are not those of all of it
    write_json(Path(settings.out) / "meta" / "pair" / "done.json", note | {"resumed": True})
    assert all("meta_seconds" in row and "meta_processor_seconds" not in row for row in module.rows_of(settings))


def test_an_organ_that_was_trained_on_is_refused(settings: FirstRunSettings) -> None:
    seen = settings.groups[0].model_copy(update={"hold_out": ("Phantom01_Bean",)})
    changed = settings.model_copy(update={"groups": (seen,)})
    torch.manual_seed(0)
    module._train((changed, seen))
    with pytest.raises(AssertionError, match="was not held out"):
        run_cell(changed, Cell("pair", "all", 2, 0, "metanas", 0))


def test_a_folder_of_other_settings_is_refused_and_a_page_is_of_its_own(settings: FirstRunSettings, tmp_path: Path) -> None:
    config = tmp_path / "first.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    with pytest.raises(ConfigError, match=r"results holds no first_run_settings\.json"):
        module.first_run(str(config), report_only=True)
    module._train((settings, settings.groups[0]))
    done(settings, Cell("pair", "all", 2, 0, "metanas", 4))
    with pytest.raises(ConfigError, match="holds cells, but no settings.json"):
        module.first_run(str(config), report_only=True)
    write_json(Path(settings.out) / "settings.json", module._frozen(settings))
    assert "**unfinished: 1 of 16 cells**" in module.first_run(str(config), report_only=True).read_text()
    elsewhere = ["--out", str(tmp_path / "empty")]
    assert "1 of 16 cells" in module.first_run(str(config), elsewhere, report_only=True).read_text()  # from the CSV alone
    for key, value, where in (("run.adapt.lr", "0.5", []), ("run.adapt.lr", "0.5", elsewhere), ("notes", "a story", elsewhere)):
        with pytest.raises(ConfigError, match=f"made under another setting of {re.escape(key)}"):
            module.first_run(str(config), [*where, f"--{key}", value], report_only=True)
    assert "another story" in module.first_run(str(config), ["--notes", "another story"], report_only=True).read_text()
    done(settings, Cell("pair", "all", 2, 0, "scratch", 4))
    module.first_run(str(config), report_only=True)
    (Path(settings.out) / "cells" / Cell("pair", "all", 2, 0, "scratch", 4).file).unlink()
    with pytest.raises(ConfigError, match=r"holds 2 cell\(s\) that are not in this run"):
        module.first_run(str(config), report_only=True)


def test_a_failed_search_is_told_and_nothing_waits_for_it(settings: FirstRunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("no such luck")

    module._train((settings, settings.groups[0]))
    monkeypatch.setattr(module, "adapt_episode", broken)
    search, scratch = (Cell("pair", "all", 2, 0, method, 4) for method in ("metanas", "scratch"))
    for cell in (search, scratch):
        module._work((settings, cell))
    notes = [failure_path(settings, cell).read_text() for cell in (search, scratch)]
    assert "no such luck" in notes[0] and f"rests on ({search.name}) failed" in notes[1]


def test_a_patient_in_support_and_query_stops_the_cell(settings: FirstRunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    module._train((settings, settings.groups[0]))
    monkeypatch.setattr(module, "support_cases", lambda dataset, task, shots, draw, query: list(query))
    with pytest.raises(DataError, match="support and query"):
        run_cell(settings, Cell("pair", "all", 2, 0, "metanas", 0))
