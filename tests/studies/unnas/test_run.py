"""The study: refused settings, a killed grid resumes, a grid continues from published cells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main
from metanas_med.data.cached import CachedDataset
from metanas_med.errors import ConfigError
from metanas_med.files import write_csv, write_json
from metanas_med.studies.benchmark.guards import check_free
from metanas_med.studies.grid.cells import cell_path
from metanas_med.studies.grid.published import Merged
from metanas_med.studies.unnas.cells import chosen, grid
from metanas_med.studies.unnas.guards import check_settings
from metanas_med.studies.unnas.merge import PACE_COLUMNS, merge
from metanas_med.studies.unnas.report import read_results
from metanas_med.studies.unnas.run import unmeasured, unnas
from metanas_med.studies.unnas.run_cell import COLUMNS, pace_path

from .made_up import Make, made_up, write_config


def test_what_must_not_be_run_is_refused(
    make: Make, pair: CachedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="rotation"):
        grid(make(pretexts=["rotatoin"]))
    with pytest.raises(ConfigError, match="no cell's name contains 'x'; an example of a name is 'a000-"):
        chosen(make(only="x"))
    assert {c.task for c in chosen(make(only="rotation"))} == {"rotation"}
    check_free(pair)
    for changed in ({"name": "Ext12_CardiacACDC"}, {"group": "hippocampus"}, {"related": ["head_neck"]}):
        bad = CachedDataset(pair.path, {**pair.meta, **changed})
        with pytest.raises(ConfigError, match="belongs to the benchmark's test group .* such as Ext20_ProstateMR"):
            check_free(bad)
    check_settings(make())
    check_settings(make(num_architectures=5, workers=3, pretexts=["jigsaw"]))  # these only add cells
    with pytest.raises(ConfigError, match="made under another setting of seconds"):
        check_settings(make(seconds=3.0))
    config = write_config(make(dataset="Phantom99"), tmp_path / "bad.yaml")
    assert main(["study", "unnas", "--config", config]) == 2
    assert "holds no data set 'Phantom99'" in capsys.readouterr().err
    assert main(["study", "unnas", "--config", config, "--report"]) == 2  # nothing is done yet
    assert "holds no cell" in capsys.readouterr().err
    assert (
        main(["study", "unnas", "--config", config, "--dry-run", "--seconds", "3600", "--other_seconds", "0", "--workers", "2"])
        == 0
    )
    assert "8 cells, 0 done; predicted for the rest: 5.0 hours" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_killed_grid_resumes(make: Make, tmp_path: Path) -> None:
    settings = make()
    config = write_config(settings, tmp_path / "unnas.yaml")
    cells = Path(settings.out) / "cells"
    first = subprocess.Popen(
        [sys.executable, "-m", "metanas_med.cli", "study", "unnas", "--config", config], start_new_session=True
    )
    end = time.monotonic() + 120
    while len(list(cells.glob("*.json"))) < 2 and time.monotonic() < end and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None, "the run must still be going on"
    first.kill()  # the parent alone; its worker must end as well
    first.wait()
    while time.monotonic() < end:
        try:
            os.killpg(first.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    planned = [c.file for c in grid(settings)]
    before = {name: (cells / name).read_bytes() for name in planned if (cells / name).exists()}  # a draft is not a cell
    assert 2 <= len(before) < len(planned) == 8, "the run must be killed before it is complete"
    seen: list[Any] = []
    page = unnas(config, before=seen.append)
    assert page is not None and sum(seen[0].done.values()) == len(before) and seen[0].hours > 0
    assert all((cells / name).read_bytes() == content for name, content in before.items())
    rows = read_results(Path(settings.results) / "unnas.csv")
    assert [f"a{r['architecture']:03d}-{r['hash']}-{r['task']}-seed{r['seed']}.json" for r in rows] == planned
    kept = {name: json.loads(content)["row"]["dice"] for name, content in before.items()}
    assert {n: r["dice"] for n, r in zip(planned, rows, strict=True) if n in kept} == kept
    assert all(r["cpu_seconds"] > 0.5 * settings.seconds for r in rows)
    steps = {r["seed"]: r["steps"] for r in rows if r["architecture"] == 0 and r["task"] == "labels"}
    assert steps[0] == steps[1]
    assert "The grid is complete: 2 architectures, 2 of them with both label seeds" in page.read_text()
    csv = (Path(settings.results) / "unnas.csv").read_bytes()
    again = unnas(config, report_only=True)
    assert again == page and (Path(settings.results) / "unnas.csv").read_bytes() == csv


def test_a_grid_continues_from_published_cells(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, there = make(), tmp_path / "there"
    config = write_config(settings, tmp_path / "unnas.yaml")
    rows = [row | {"steps": 26} for row in made_up(settings)]  # 0.25 s of the paces below
    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    with pytest.raises(ConfigError, match=r"there holds no unnas_settings\.json"):
        merge(config, [], there)
    check_settings(make(out=str(there)))
    (there / "settings.json").rename(there / "unnas_settings.json")
    with pytest.raises(ConfigError, match="made under another setting of seconds"):
        merge(config, ["--seconds", "9"], there)
    write_csv(there / "unnas.csv", [*rows[:5], rows[0]], COLUMNS)
    with pytest.raises(ConfigError, match="1 cell.* twice"):
        merge(config, [], there)
    for column in ("precision", "query_hash", "train_hash"):
        write_csv(there / "unnas.csv", [*rows[:4], rows[4] | {column: "other"}], COLUMNS)
        with pytest.raises(ConfigError, match=f"its cells have 2 values of {column}"):
            merge(config, [], there)
    noted = json.loads((there / "unnas_settings.json").read_text())
    write_json(there / "unnas_settings.json", noted | {"precision": "bfloat16"})
    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    with pytest.raises(ConfigError, match="made under another setting of precision"):
        merge(config, [], there)
    del noted["train"]["average"]  # of a version that lacked this key
    write_json(there / "unnas_settings.json", noted)
    assert not Path(settings.out).exists()

    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    with pytest.raises(ConfigError, match=r"there holds no unnas_pace\.csv"):
        merge(config, [], there)
    paces = [
        {
            "architecture": r["architecture"],
            "hash": r["hash"],
            "task": r["task"],
            "step_seconds": 0.01,
            "machine": "a CPU",
            "code": "0",
        }
        for r in rows[1:5]
    ]
    write_csv(there / "unnas_pace.csv", paces[:-1], PACE_COLUMNS)
    with pytest.raises(ConfigError, match=r"1 cell\(s\) took other steps than their paces give .*26, expected a pace"):
        merge(config, [], there)
    write_csv(there / "unnas_pace.csv", paces, PACE_COLUMNS)
    write_csv(there / "unnas.csv", [*rows[:4], rows[4] | {"steps": 21}], COLUMNS)  # another spare factor
    with pytest.raises(ConfigError, match=r"1 cell\(s\) took other steps than their paces give .*21, expected 26"):
        merge(config, [], there)
    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    check_settings(settings)
    cells = grid(settings)
    write_json(pace_path(settings, cells[0]), {"step_seconds": 0.02})
    with pytest.raises(ConfigError, match="is not the pace that .*there has: trainings of one architecture would differ"):
        merge(config, [], there)
    assert not cell_path(settings, cells[0]).exists() and not pace_path(settings, cells[2]).exists()
    pace_path(settings, cells[0]).unlink()
    own = grid(settings)[4]
    write_json(cell_path(settings, own), {"cell": asdict(own), "row": rows[4] | {"code": "own"}, "cell_seconds": 70.0})
    assert main(["study", "unnas", "--config", config, "--merge", str(there)]) == 0
    assert "4 cells taken, 1 were there" in capsys.readouterr().out
    seen: list[Any] = []
    assert unnas(config, dry_run=True, before=seen.append) is None
    assert sum(seen[0].done.values()) == 5 and seen[0].hours == pytest.approx(3 * 70.0 / 3600)
    page = unnas(config, report_only=True)
    assert page
    found = read_results(page.with_name("unnas.csv"))
    assert json.loads(pace_path(settings, cells[0]).read_text()) == paces[0]
    # the second training with labels uses the pace of the first, wherever it was measured
    assert [(c.number, c.task) for c in unmeasured(settings, cells)] == [(1, "rotation"), (1, "random-labels")]
    assert [r["code"] for r in found] == ["0.1.0"] * 4 + ["own"]
    assert [(r["task"], r["dice"]) for r in found] == [(r["task"], pytest.approx(r["dice"])) for r in rows[:5]]
    # another run can take over what this run publishes
    assert merge(config, ["--out", str(tmp_path / "third")], page.parent) == Merged(5, 0, 0)
    # fewer cells do not replace it, and neither do cells that do not fit their paces
    write_json(cell_path(settings, own), {"cell": asdict(own), "row": rows[4] | {"steps": 21}})
    with pytest.raises(ConfigError, match="took other steps"):
        unnas(config, report_only=True)
    cell_path(settings, own).unlink()
    with pytest.raises(ConfigError, match=r"holds 1 cell\(s\) that are not in this run.*study unnas --merge"):
        unnas(config, report_only=True)
    write_json(cell_path(settings, own), {"cell": asdict(own), "row": rows[4]})
    write_csv(page.with_name("unnas_pace.csv"), [*paces, paces[0] | {"task": "rotation", "architecture": 1}], PACE_COLUMNS)
    with pytest.raises(ConfigError, match=r"unnas_pace\.csv holds 1 cell\(s\) that are not in this run"):
        unnas(config, report_only=True)
