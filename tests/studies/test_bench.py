"""Benchmarks: the counting is right on examples in closed form, and every function gives the rows that its page needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from metanas_med.data.cache import prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.plan import Intensity, Plan
from metanas_med.engine.settings import load_settings
from metanas_med.errors import DataError, StorageError
from metanas_med.files import read_csv, write_csv
from metanas_med.learner import DartsSettings, Runtime
from metanas_med.space import UNetSupernetSettings, supernet_multiply_adds
from metanas_med.studies.bench import dice as bench_dice
from metanas_med.studies.bench import job as bench_job
from metanas_med.studies.bench import msd, process, supernet
from metanas_med.studies.bench.step import Size, Stepper, measure_steps, step_memory, stored_bytes
from metanas_med.studies.bench.supernet import dice_table

TINY = Size("tiny", UNetSupernetSettings(base_width=2, max_width=4, levels=2, nodes=(1,)), 8, batch=1)


def test_stored_bytes_counts_each_storage_once_and_no_parameter():
    weight = torch.randn(3, 2, requires_grad=True)
    x = torch.randn(5, 2, requires_grad=True)

    def run() -> torch.Tensor:
        y = (x @ weight.T).tanh()  # the product keeps x and weight, tanh its own result
        return (y * y).sum()  # keeps y again, twice: the same storage

    assert stored_bytes(run, [weight]) == 5 * 2 * 4 + 5 * 3 * 4
    assert stored_bytes(run, [weight, x]) == 5 * 3 * 4
    assert stored_bytes(run) == 5 * 2 * 4 + 5 * 3 * 4 + 3 * 2 * 4


def test_stored_bytes_of_a_convolution_and_a_view():
    kernel = torch.randn(4, 2, 3, 3, 3, requires_grad=True)
    x = torch.randn(1, 2, 6, 6, 6)

    def run() -> torch.Tensor:
        y = torch.nn.functional.conv3d(x, kernel, padding=1).relu()  # keeps x, and the relu's result
        return y[:, :1].exp().sum()  # keeps the result of exp, not the view

    assert stored_bytes(run, [kernel]) == 4 * (2 * 6**3 + 4 * 6**3 + 6**3)


def test_an_ordinary_supernet_stores_more_than_a_merged_one():
    runtime = Runtime()
    plain, merged, darts = (Stepper(TINY, edge, runtime).activation_bytes() for edge in ("plain", "merged", "darts"))
    assert merged <= 1.5 * plain
    assert darts > 1.5 * merged  # each of five candidates stores a map of its own; stem, norms and head are common


def test_tables_and_page_are_made_from_the_csv_alone(tmp_path: Path):
    rows = measure_steps([TINY], repetitions=2, memory=False)
    assert {row["network"] for row in rows} == {"plain", "merged", "darts"}
    for row in rows:
        assert row["seconds"] >= 0
        assert row["code"]
        assert row["torch"] == torch.__version__
    write_csv(tmp_path / supernet.STEP_CSV, rows)
    dice = [
        {
            "start": "fresh",
            "contender": name,
            "support": 0,
            "draw": draw,
            "code": "0.1.0",
            "steps": 3,
            "dice_by_scan": "0.5 0.7",
            "multiply_adds": 2_000_000,
            "parameters": 1000,
            "base_width": 8,
            "max_width": 32,
        }
        for name, draw in (("searched", 0), ("random", 0), ("random", 1))
    ]
    write_csv(tmp_path / supernet.DICE_CSV, dice)
    tables = supernet.report(tmp_path)
    assert {row["goal"] for row in tables["Goals"]} == {1.2, 1.5}
    assert all(isinstance(row["reached"], bool) for row in tables["Goals"])
    assert [row["runs"] for row in tables["Dice at equal multiply-adds"]] == [1, 2]
    assert tables["Dice at equal multiply-adds"][0]["Dice"] == pytest.approx(0.6)
    page = (tmp_path / supernet.PAGE).read_text()
    for title in tables:
        assert f"## {title}" in page


def test_step_memory_returns_growth_and_peak():
    growth, whole = step_memory(TINY, "plain", Runtime(), steps=1)
    assert 0 <= growth < whole


@pytest.mark.slow
def test_a_fresh_process_measures_itself():
    seconds, peak, found = process.in_fresh_process(process.measured, np.ones, 30_000_000)
    assert peak > 240e6
    assert seconds > 0
    assert found.shape == (30_000_000,)


@pytest.mark.slow
def test_every_contender_has_the_searched_cost(tmp_path: Path):
    bench_tiny = bench_dice.DiceBench(seconds=0.5, meta_steps=2, fresh_steps=2, seeds=1, draws=1, cases=7, query=1, scale=0.3)
    rows = bench_dice.dice_at_equal_cost(tmp_path, bench_tiny)
    names = {"searched", "all alphas uniform", "3x3x3 only", "random"}
    assert {row["contender"] for row in rows if row["start"] == "fresh"} == names
    assert {row["contender"] for row in rows if row["start"] == "meta-learned"} == {*names, "searched while adapting"}
    target = next(row["multiply_adds"] for row in rows if row["contender"] == "searched")
    for row in rows:
        assert row["multiply_adds"] == pytest.approx(target, rel=0.25)
        assert 0 <= row["dice"] <= 1


@pytest.mark.parametrize("edge", ["merged", "plain"])
def test_widths_are_those_of_a_full_search(edge: str):
    changes = ["--space.base_width", "3", "--space.max_width", "12", "--space.levels", "3", "--space.coarse_from", "2"]
    settings, view, strides, target = load_settings(None, changes), (12, 12, 8), ((2, 2, 2), (2, 2, 2)), 1_500_000

    def distance(widths: tuple[int, int]) -> float:
        space = settings.space.model_copy(update={"edge": edge, "base_width": widths[0], "max_width": widths[1]})
        return abs(supernet_multiply_adds(space, view, strides) - target) / target - 1e-4 * widths[1] / widths[0]

    best = min(((base, widest) for base in range(2, 6) for widest in range(base, 4 * base + 1)), key=distance)
    reference: Any = SimpleNamespace(plan=SimpleNamespace(view=view, strides=strides))
    found = bench_dice.resized(settings, reference, target, edge).space
    assert (found.base_width, found.max_width) == best


def test_additional_names_point_to_the_same_scans(phantoms: Path, tmp_path: Path):
    prepare([phantoms / "Phantom01_Bean"], tmp_path)
    path = tmp_path / "Phantom01_Bean.h5"
    before = path.stat().st_size
    msd.repeat_cases(path, 9)
    dataset = open_cache(path)
    assert len({case.patient for case in dataset.cases}) == 9
    first, again = dataset.cases[0].name, dataset.cases[6].name
    np.testing.assert_array_equal(dataset.image(first), dataset.image(again))
    dataset.close()
    assert path.stat().st_size < before + 100_000
    with h5py.File(path) as file:
        assert file["images"][first].id == file["images"][again].id  # type: ignore[index]


def test_evaluations_of_a_task():
    soft = {"steps": 10, "alpha_every": 4, "discretizer": {"name": "none"}}
    assert msd.evaluations(DartsSettings.model_validate({**soft, "alpha_gradient": {"name": "first_order"}})) == 13
    assert msd.evaluations(DartsSettings.model_validate(soft)) == 10
    assert msd.evaluations(DartsSettings(steps=10, alpha="frozen")) == 10


def test_the_full_run_is_expected_from_what_was_measured():
    changes = ["--meta.iterations", "4", "--meta.batch", "2", "--learner.steps", "4", "--features.steps", "3"]
    changes += ["--phases", "[{share: 1, mix: {tasks: 1}}]", "--tasks.synthetic", "0"]
    changes += ["--learner.alpha_every", "1", "--learner.alpha_gradient.name", "first_order"]
    stages = [
        {"stage": "load an episode of Task01", "seconds": 22.0, "evaluations": None},
        {"stage": "load an episode of Task03", "seconds": 110.0, "evaluations": None},
        {"stage": "learn", "seconds": 1, "evaluations": 2, "seconds an evaluation": 900.0},
        {"stage": "features", "seconds": 1, "evaluations": 2, "seconds an evaluation": 600.0},
    ]

    def expected(*more: str) -> list[str]:
        settings = load_settings(overrides=[*changes, *more])
        rows = {row["quantity"]: row["value"] for row in msd.expected_run(settings, stages)}
        names = ("passes of the task learner", "passes for features", "hours on this machine")
        return [next(value for quantity, value in rows.items() if name in quantity) for name in names]

    assert expected() == ["64", "0", "16"]
    # ten scans and a query in 22 and 110 seconds: 6 a scan; 100 000 iterations of two tasks read 4.5 scans each
    settings = load_settings(overrides=[*changes, "--meta.iterations", "100000", "--tasks.shots", "[1, 2, 5, 10]"])
    rows = {row["quantity"]: row["value"] for row in msd.expected_run(settings, stages)}
    assert rows["hours of loading"] == rows["hours on one GPU"].removesuffix(".0") == "1500"
    settings = settings.model_copy(update={"tasks": settings.tasks.model_copy(update={"synthetic": 0.5})})
    assert {row["quantity"]: row["value"] for row in msd.expected_run(settings, stages)}["hours of loading"] == "750"
    # a quarter first and a quarter last: four of eight tasks train features
    assert expected(
        "--phases", "[{share: .25, mix: {features: 1}}, {share: .5, mix: {tasks: 1}}, {share: .25, mix: {features: 1}}]"
    ) == ["32", "12", "10"]


def test_dice_of_shared_scans_and_supports_has_the_interval_of_a_crossed_design() -> None:
    """Three scores of one scan are not three scans: repeated values do not change the interval."""
    rng = np.random.default_rng(0)
    scans = rng.normal(0.8, 0.05, 6)

    def rows(draws: int) -> list[dict[str, Any]]:
        text = " ".join(f"{v:.4f}" for v in scans)
        about = {
            "start": "fresh",
            "contender": "random",
            "steps": 20,
            "multiply_adds": 1,
            "parameters": 1,
            "base_width": 1,
            "max_width": 1,
        }
        return [about | {"support": s, "draw": d, "dice_by_scan": text} for s in range(3) for d in range(draws)]

    once, often = (dice_table(rows(draws))[0] for draws in (1, 5))
    assert once["95 % interval"] == often["95 % interval"] and often["runs"] == 15
    low, high = (float(v) for v in once["95 % interval"].split(" to "))
    assert (high - low) / 3.92 == pytest.approx(scans.std(ddof=1) / np.sqrt(6), rel=0.1)


def job_row(**changes: str) -> dict[str, str]:
    return {**dict.fromkeys(bench_job.COLUMNS, "1"), "device": "another", **changes}


def test_the_main_job_is_timed_stage_by_stage_and_other_rows_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # starting a process takes longer than everything timed here; another test covers fresh processes
    monkeypatch.setattr(bench_job, "in_fresh_process", lambda job, *arguments: job(*arguments))
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "user's"))
    small = "--space.base_width 2 --space.max_width 4 --space.levels 2 --plan.view_voxels 1000 --plan.adapt_voxels 1000"
    small += " --learner.steps 2 --adapt.batch 1 --device cpu"
    job = bench_job.Job(overrides=tuple(small.split()), iterations=2, steps=(2,), shapes=((20, 24, 16),), scale=0.4)
    out = tmp_path / "out"
    write_csv(out / bench_job.CSV, [job_row()], bench_job.COLUMNS)
    bench_job.bench_job(out, job=job)
    tables = bench_job.bench_job(out, job=replace(job, iterations=3))  # replaces only the rows that it times again
    assert not (tmp_path / "user's").exists()
    rows = read_csv(out / bench_job.CSV)
    times = {
        "adapt, 5 scans, 2 steps": 2,
        "predict, 20 x 24 x 16 voxels": 1,
        "meta-train, 2 iterations": 2,
        "meta-train, 3 iterations": 3,
    }
    assert {row["what"] for row in rows} == {"1", *times} and len(rows) == 5
    for row in rows[1:]:
        assert float(row["seconds"]) > 0
        assert float(row["each"]) == pytest.approx(float(row["seconds"]) / times[row["what"]], abs=0.01)
        assert 0.1 < float(row["memory_gib"]) < 8 and row["device_gib"] == ""
    page = (out / bench_job.PAGE).read_text()
    assert len(tables) == 2 and all(f"## {title}" in page for title in tables)


def test_a_page_of_the_main_job_needs_its_csv(tmp_path: Path):
    with pytest.raises(DataError, match=r"job.csv is not there. Run the study without --report first"):
        bench_job.report(tmp_path)


@pytest.mark.parametrize("how", ["empty", "cut", "a column less", "no number", "no text"])
def test_a_damaged_csv_of_the_main_job_is_refused_before_anything_is_timed(how: str, tmp_path: Path):
    path = tmp_path / bench_job.CSV
    columns = bench_job.COLUMNS[1:] if how == "a column less" else bench_job.COLUMNS
    row = job_row(seconds="soon") if how == "no number" else job_row()
    write_csv(path, [] if how == "empty" else [{name: row[name] for name in columns}], columns)
    if how == "cut":
        path.write_text(path.read_text()[:-10])
    if how == "no text":
        path.write_bytes(b"\xff\xfe" + path.read_bytes())
    content = path.read_bytes()
    for command in (bench_job.bench_job, bench_job.report):
        with pytest.raises(DataError, match=r"job.csv is damaged or of another version. Move it away, or choose another --out"):
            command(tmp_path)
    assert path.read_bytes() == content and not (tmp_path / bench_job.PAGE).exists()


def test_the_main_job_is_not_timed_for_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is a file, expected a folder"):
        bench_job.bench_job(tmp_path / "file" / "out")


def test_a_scan_that_is_timed_is_three_views_wide_along_every_axis():
    plan = Plan((2, 0, 1), (1.5, 2.0, 4.0), (32, 40, 16), ((2, 2, 2),), (Intensity("robust"),))
    shape = (100, 50, 64)
    assert plan.shape(shape, bench_job.scan_spacing(plan, shape)) == (96, 120, 48)
