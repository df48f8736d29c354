"""The study: a tiny run on phantoms that is killed and resumes, cells and meta-trainings that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metanas_med.engine.meta_run import MetaRun
from metanas_med.errors import ConfigError, InUseError
from metanas_med.files import read_csv, write_json
from metanas_med.studies.benchmark import run as run_module
from metanas_med.studies.benchmark.cells import Cell, grid
from metanas_med.studies.benchmark.compare import read_results
from metanas_med.studies.benchmark.guards import check_settings
from metanas_med.studies.benchmark.pretrain import fixed_space, folder_of, pretrain
from metanas_med.studies.benchmark.run import benchmark
from metanas_med.studies.benchmark.run_cell import COLUMNS, architecture_hash, work
from metanas_med.studies.benchmark.settings import BenchmarkSettings
from metanas_med.studies.grid.cells import cell_path, failure_path
from metanas_med.studies.grid.lock import alone_in

from .made_up import GENOTYPE, made_up_cell, write_config


class Noting:
    """A launcher that notes the jobs in their order and runs none."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Any]] = []

    def map(self, job: Any, jobs: Any, then: Any = None) -> Iterator[None]:
        if job is pretrain:
            for first in jobs:
                self.done += [("pretrain", each[1][1:]) for each in (first, *then(first))]
        elif jobs:
            self.done.append(("work", {each[1].seed for each in jobs}))
        yield from ()


def test_cells_of_a_seed_do_not_wait_for_the_meta_trainings_of_the_next(
    settings: BenchmarkSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = Noting()
    monkeypatch.setattr(run_module, "build_launcher", lambda name, workers: noting)
    two = settings.model_copy(update={"seeds": 2, "methods": ("metanas", "joint", "scratch")})
    with pytest.raises(ConfigError, match="no cell"):
        benchmark(write_config(two, tmp_path / "benchmark.yaml"))
    # for each seed: the search of the group, then the fixed network that it sets the size of, then cells
    first = [("pretrain", ("metanas", 0)), ("pretrain", ("joint", 0)), ("work", {0})]
    second = [("pretrain", ("metanas", 1)), ("pretrain", ("metanas", 0)), ("pretrain", ("joint", 1)), ("work", {1})]
    assert noting.done == [*first, *second]


def has_ended(group: int, seconds: float = 30.0) -> bool:
    """Return whether every process of a process group has ended before ``seconds`` are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_killed_grid_resumes_with_the_same_rows(settings: BenchmarkSettings, tmp_path: Path) -> None:
    small = settings.model_copy(update={"methods": ("metanas", "joint"), "each_organ": (), "matched_steps": (), "draws": 1})
    config = write_config(small, tmp_path / "benchmark.yaml")
    command = [sys.executable, "-m", "metanas_med.cli", "study", "benchmark", "--config", config]
    cells = Path(small.out) / "cells"
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not any(cells.glob("*.json")) and time.monotonic() < end and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None, "the run must still be going on"
    first.kill()  # the parent alone, as the system does when memory is short; its workers must end as well
    first.wait()
    assert has_ended(first.pid)
    planned = [c.file for c in grid(small)]
    before = {name: (cells / name).read_bytes() for name in planned if (cells / name).exists()}  # a draft is not a cell
    assert 1 <= len(before) < len(planned), "the run must be killed before it is complete"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(planned)} cells, {len(before)} done" in " ".join(done.stdout.split())
    assert all((cells / name).read_bytes() == content for name, content in before.items())
    rows = read_results(Path(small.results) / "results.csv.xz")
    # the same rows as in a grid that was not killed, except for measured times
    whole = small.model_copy(update={"out": str(tmp_path / "whole"), "results": str(tmp_path / "whole_results")})
    benchmark(write_config(whole, tmp_path / "whole.yaml"))
    expected = read_results(Path(whole.results) / "results.csv.xz")

    def strip(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in found if not r["budget"]]

    assert len(rows) == len(expected) > 0 and strip(rows) == strip(expected) != []
    assert {r["budget"] for r in rows} == {"", "x1"}
    page = (Path(small.results) / "benchmark.md").read_text()
    assert "The grid is complete" in page and "Test groups" in page and "Goal" not in page  # two scans have no goal


def test_cells_are_comparable_and_their_rows_complete(settings: BenchmarkSettings) -> None:
    for kind in ("metanas", "reptile"):
        pretrain((settings, ("pair", kind, 0)))
    found = {}
    for method, times in (("metanas", 0), ("metanas-frozen", 0), ("reptile", 0), ("scratch", 0), ("scratch-10x", 10)):
        cell = Cell("pair", "Phantom06_Pair", "all", method, 2, 20, 0, 0, times)
        work((settings, cell))
        found[method] = json.loads(cell_path(settings, cell).read_text())
        stamp = cell_path(settings, cell).stat().st_mtime_ns
        work((settings, cell))  # finished cells stay as they are
        assert cell_path(settings, cell).stat().st_mtime_ns == stamp
    ours = found["metanas"]
    assert [(r["organ"], r["case"]) for r in ours["rows"]] == [(r["organ"], r["case"]) for r in found["scratch"]["rows"]]
    assert len({tuple(f["support"]) for f in found.values()}) == 1
    assert len(ours["rows"]) == 2 * 2 and set(ours["rows"][0]) == set(COLUMNS)
    row = {name: f["rows"][0] for name, f in found.items()}
    assert row["metanas"]["gradient_evaluations"] == 30 and row["metanas-frozen"]["gradient_evaluations"] == 20
    assert row["reptile"]["gradient_evaluations"] == row["scratch"]["gradient_evaluations"] == 20
    assert row["reptile"]["multiply_adds"] == row["scratch"]["multiply_adds"] > 0
    assert row["metanas"]["checkpoint"] == row["metanas-frozen"]["checkpoint"] != row["reptile"]["checkpoint"]
    assert all(len(row[name]["architecture"]) == 8 for name in ("metanas", "metanas-frozen"))
    assert row["reptile"]["architecture"] == row["scratch"]["architecture"] == ""
    assert row["scratch"]["checkpoint"].startswith("fresh-") and row["scratch-10x"]["budget"] == "x10"
    assert row["scratch-10x"]["steps"] > 20  # about ten times the time of a more expensive step
    assert all(0 <= r["dice"] <= 1 and r["hd95_mm"] >= 0 for f in found.values() for r in f["rows"])
    # a fixed network of the same class, from a state that never saw the organ
    assert fixed_space(settings, "pair").name == "unet"
    assert MetaRun.load(folder_of(settings, ("pair", "reptile", 0))).settings.space == fixed_space(settings, "pair")


def test_a_report_uses_the_file_whatever_the_command_line_says(settings: BenchmarkSettings, tmp_path: Path) -> None:
    config = write_config(settings, tmp_path / "benchmark.yaml")
    cells = grid(settings)
    made = [c for c in cells if c.target == "all" and c.method in ("metanas", "joint")]
    check_settings(settings, settings, ["pair"])
    for cell in made:
        made_up_cell(settings, cell)
    page = benchmark(config, ["--methods", "[metanas]", "--shots", "[2]", "--only", "metanas"], report_only=True)
    assert page and f"**unfinished: {len(made)} of {len(cells)} cells**" in page.read_text()
    assert {r["method"] for r in read_results(Path(settings.results) / "results.csv.xz")} == {"metanas", "joint"}
    rows = read_csv(Path(settings.results) / "results.csv.xz")
    assert {r["architecture"] for r in rows} == {architecture_hash(GENOTYPE)}
    # measures have the decimals that are used, and no more
    assert all(len(r[name].partition(".")[2]) <= 4 - 2 * (name == "hd95_mm") for r in rows for name in ("dice", "nsd", "hd95_mm"))
    # cells of other settings are not published as cells of the file
    kept = Path(settings.out) / "settings.json"
    noted = json.loads(kept.read_text())
    write_json(kept, noted | {"plan": noted["plan"] | {"view_voxels": 9999}})
    with pytest.raises(ConfigError, match=r"cells that were made under another setting of plan\.view_voxels"):
        benchmark(config, report_only=True)
    write_json(kept, noted)
    # a test cell that the file does not plan is not one of its results
    extra = replace(cells[0], draw=7)
    made_up_cell(settings, extra)
    assert benchmark(config, ["--draws", "8"], report_only=True)
    assert {r["draw"] for r in read_results(Path(settings.results) / "results.csv.xz")} == {0}


def test_a_failed_meta_training_stops_its_own_cells_alone(settings: BenchmarkSettings) -> None:
    bad = settings.run.model_copy(update={"learner": settings.run.learner.model_copy(update={"name": "nobody"})})
    broken = settings.model_copy(update={"run": bad})
    pretrain((broken, ("pair", "metanas", 0)))
    cell = Cell("pair", "Phantom06_Pair", "all", "metanas", 2, 0, 0, 0)
    work((broken, cell))
    assert (
        "meta-training pair-metanas-seed0: ConfigError: unknown learner.name 'nobody'" in failure_path(broken, cell).read_text()
    )


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others(
    settings: BenchmarkSettings, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Of six people two are query cases, so four shots are possible and five are not."""
    from metanas_med.cli import main

    small = {"methods": ("metanas",), "each_organ": (), "shots": (5, 2), "steps": (0,), "curve_steps": (), "workers": 2}
    config = write_config(settings.model_copy(update=small), tmp_path / "benchmark.yaml")
    assert main(["study", "benchmark", "--config", config]) == 2
    error = capfd.readouterr().err
    assert "1 of 2 cells failed, the others are done" in error and "5 shots were asked for" in error
    rows = read_results(Path(settings.results) / "results.csv.xz")
    assert {r["shots"] for r in rows} == {2}


def test_a_budget_does_not_wait_for_a_failed_search(settings: BenchmarkSettings) -> None:
    cell = Cell("pair", "Phantom06_Pair", "all", "scratch-10x", 2, 20, 0, 0, 10.0)
    assert cell.reference
    failed = failure_path(settings, cell.reference)
    failed.parent.mkdir(parents=True)
    failed.write_text("out of memory")
    work((settings, cell))
    assert "the search that it needs" in failure_path(settings, cell).read_text() and not cell_path(settings, cell).exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    def other() -> None:
        with alone_in(tmp_path / "out"):
            pass

    with ThreadPoolExecutor(1) as pool, alone_in(tmp_path / "out"):
        with pytest.raises(InUseError, match="in use by process"):
            pool.submit(other).result()
    with alone_in(tmp_path / "out"):
        pass


def test_drafts_that_a_killed_run_left_are_removed(tmp_path: Path) -> None:
    write_json(tmp_path / "cells" / "done.json", {})
    (tmp_path / "cells" / ".k3j2.half.json").write_text("{")
    with alone_in(tmp_path):
        assert [p.name for p in (tmp_path / "cells").iterdir()] == ["done.json"]


def test_published_rows_are_not_replaced_by_fewer(settings: BenchmarkSettings, tmp_path: Path) -> None:
    config, first, second = write_config(settings, tmp_path / "benchmark.yaml"), *grid(settings)[:2]
    check_settings(settings, settings, ["pair"])
    for cell in (first, second):
        made_up_cell(settings, cell)
    assert benchmark(config, report_only=True)
    cell_path(settings, second).unlink()
    with pytest.raises(ConfigError, match=r"holds 1 cell\(s\) that are not in this run.*study benchmark --merge"):
        benchmark(config, report_only=True)
