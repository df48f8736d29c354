"""Cells of another run of the benchmark, taken over from its published results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import read_csv, write_csv, write_json
from metanas_med.studies.benchmark.cells import Cell, grid
from metanas_med.studies.benchmark.guards import check_settings
from metanas_med.studies.benchmark.job import Job
from metanas_med.studies.benchmark.merge import merge
from metanas_med.studies.benchmark.pretrain import folder_of
from metanas_med.studies.benchmark.run import benchmark
from metanas_med.studies.benchmark.run_cell import COLUMNS
from metanas_med.studies.benchmark.settings import BenchmarkSettings
from metanas_med.studies.grid.cells import cell_path
from metanas_med.studies.grid.published import Merged

from .made_up import GROUP, made_up_cell, write_config


@pytest.fixture
def settings(tiny_benchmark: Any) -> BenchmarkSettings:
    few = {"shots": [2], "curve_steps": [], "matched_steps": [], "draws": 2, "each_organ": []}
    return tiny_benchmark({}, groups=[GROUP], methods=["metanas", "scratch", "scratch-10x"], **few)


@pytest.fixture
def config(settings: BenchmarkSettings, tmp_path: Path) -> str:
    return write_config(settings, tmp_path / "benchmark.yaml")


def published(
    settings: BenchmarkSettings, config: str, folder: Path, cells: list[Cell], code: str = "here"
) -> list[dict[str, str]]:
    """Return the rows of a run, in a folder of its own, that made ``cells`` and published them to ``folder``."""
    own = settings.model_copy(update={"out": str(folder) + "_run"})
    check_settings(own, settings, ["pair"])
    for cell in cells:
        made_up_cell(own, cell, code)
    write_json(folder_of(own, ("pair", "metanas", 0)) / "done.json", {"seconds": 9.0, "code": code})
    write_json(folder_of(own, ("pair", "metanas", 0)) / "last.json", {"iteration": 7, "sha256": f"{code}{'0' * 60}"})
    benchmark(config, ["--out", own.out, "--results", str(folder)], report_only=True)
    return read_csv(folder / "results.csv.xz")


def test_a_grid_continues_from_published_cells(
    settings: BenchmarkSettings, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = grid(settings)
    there = published(settings, config, tmp_path / "there", cells[:5], "there")
    published(settings, config, tmp_path / "here", cells[4:7], "here")
    run = ["--out", str(tmp_path / "here_run"), "--results", str(tmp_path / "both")]
    assert main(["study", "benchmark", "--config", config, "--merge", str(tmp_path / "there"), *run]) == 0
    assert "4 cells taken, 1 were there" in " ".join(capsys.readouterr().out.split())
    assert benchmark(config, run, report_only=True)
    # rows of the other run are unchanged; where both have a cell, the run's own is kept
    found = read_csv(tmp_path / "both" / "results.csv.xz")
    assert [r for r in found if r["code"] == "there"] == there[: 4 * 2] and [r["code"] for r in found[4 * 2 :]] == ["here"] * 6
    trained = read_csv(tmp_path / "both" / "meta.csv")
    assert [(r["code"], r["iterations"], r["checkpoint"]) for r in trained] == [
        ("here", "7", "here" + "0" * 12),
        ("there", "7", "there" + "0" * 11),
    ]
    # a run that takes its own publication back lists no meta-training twice
    assert merge(config, run, tmp_path / "both") == Merged(0, 7, 0)
    assert benchmark(config, run, report_only=True)
    assert read_csv(tmp_path / "both" / "meta.csv") == trained
    # a second merge changes nothing, and the result can be merged as well
    assert merge(config, run, tmp_path / "there") == Merged(0, 5, 0)
    assert merge(config, ["--out", str(tmp_path / "third")], tmp_path / "both") == Merged(7, 0, 0)
    assert len(read_csv(tmp_path / "here_run" / "meta_merged.csv")) == 2
    # a meta-training that no cell needs any more is not listed
    for cell in cells[:4]:
        made_up_cell(settings.model_copy(update={"out": str(tmp_path / "here_run")}), cell, "here")
    assert benchmark(config, run, report_only=True)
    assert [r["code"] for r in read_csv(tmp_path / "both" / "meta.csv")] == ["here"]
    assert merge(config, ["--out", str(tmp_path / "some"), "--only", "scratch-2shot-0step"], tmp_path / "both").others > 0


def test_the_seconds_of_a_merged_search_define_a_budget(settings: BenchmarkSettings, config: str, tmp_path: Path) -> None:
    search, *_ = (c for c in grid(settings) if c.method == "metanas" and c.steps == 20)
    published(settings, config, tmp_path / "there", [search])
    merge(config, [], tmp_path / "there")
    timed = next(c for c in grid(settings) if c.reference == search and c.times == 10)
    job = Job(settings, timed, settings.groups[0], None, None, [], [])  # type: ignore[arg-type]
    assert job.budget == 90.0


def test_cells_of_other_settings_are_refused(settings: BenchmarkSettings, config: str, tmp_path: Path) -> None:
    other = settings.model_copy(update={"num_query": settings.num_query + 1})
    there = tmp_path / "there"
    published(other, write_config(other, tmp_path / "other.yaml"), there, grid(settings)[:2])
    with pytest.raises(ConfigError, match="there holds cells that were made under another setting of num_query"):
        merge(config, [], there)
    (there / "benchmark_settings.json").unlink()
    with pytest.raises(ConfigError, match=r"there holds no benchmark_settings\.json"):
        merge(config, [], there)
    with pytest.raises(ConfigError, match=r"nowhere holds no results\.csv"):
        merge(config, [], tmp_path / "nowhere")
    assert not list(Path(settings.out).rglob("*.json"))


@pytest.mark.parametrize(
    "what",
    ["a row is missing", "an organ is missing", "a case is missing", "twice", "of two states", "no column", "too many cases"],
)
def test_incomplete_cells_are_refused_and_nothing_is_taken(
    settings: BenchmarkSettings, config: str, tmp_path: Path, what: str
) -> None:
    there, cells = tmp_path / "there", grid(settings)[:3]
    rows = published(settings, config, there, cells)
    rows = [r | {"case": case} for r in rows for case in ("a", "c")]
    columns = list(COLUMNS)
    if what == "a row is missing":
        rows[-1] |= {"case": "b"}
    elif what == "an organ is missing":
        rows = rows[:-2]
    elif what == "a case is missing":
        rows = [r for r in rows if r["case"] == "a" or r["method"] != cells[-1].method or r["budget"] != cells[-1].time]
    elif what == "twice":
        rows.append(rows[-1])
    elif what == "of two states":
        rows[-1]["checkpoint"] = "another"
    elif what == "no column":
        columns.remove("nsd")
    else:
        rows += [r | {"case": f"{r['case']}{n}"} for r in rows[-2:] for n in range(settings.num_query)]
    write_csv(there / "results.csv", [{name: r[name] for name in columns} for r in rows], columns)
    expected = "has no column nsd" if what == "no column" else f"rows of {cells[-1].name} are not one complete cell"
    with pytest.raises((ConfigError, DataError), match=expected):
        merge(config, [], there)
    assert not cell_path(settings, cells[0]).exists() and not list(Path(settings.out).glob("*.csv"))
