"""The report of artificial rows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.files import write_csv, write_json
from metanas_med.report.statistics import Margin
from metanas_med.studies.benchmark import figures
from metanas_med.studies.benchmark.cells import grid
from metanas_med.studies.benchmark.compare import difference, matched, read_results
from metanas_med.studies.benchmark.guards import check_settings
from metanas_med.studies.benchmark.methods import METHODS
from metanas_med.studies.benchmark.pretrain import folder_of, pretrain
from metanas_med.studies.benchmark.report import write_report
from metanas_med.studies.benchmark.run import benchmark
from metanas_med.studies.benchmark.run_cell import COLUMNS
from metanas_med.studies.benchmark.settings import BenchmarkData, BenchmarkSettings
from metanas_med.studies.benchmark.tables import complete, organ_table, step_table

from .made_up import made_up_cell, made_up_rows, report_of, write_config


@pytest.mark.parametrize(("gain", "verdict"), [(0.10, "reached."), (0.01, "missed: reached against 0 of 2.")])
def test_the_report_names_the_winner_and_its_margin(settings: BenchmarkSettings, gain: float, verdict: str) -> None:
    rows = made_up_rows(gain)
    page = report_of(settings, rows)
    assert f"Goal (at least +0.03 over every other method at equal gradient evaluations): {verdict}" in page
    if gain == 0.10:
        words = "Mean rank over 2 organ(s): `metanas` 1.0, `metanas-frozen` 2.0, `scratch` 3.0."
        assert f"{words} Not ranked, because they have fewer organs or draws: `nnunet-30min`." in page  # it has one draw
    # ours at 20 steps takes 30 gradients and 30 seconds; the others are compared at 30 steps, and with our time
    line = next(line for line in page.splitlines() if line.startswith("| metanas-frozen |") and "[" in line)

    def mean(method: str, steps: int) -> float:
        return float(np.mean([r["dice"] for r in rows if r["method"] == method and r["steps"] == steps]))

    for steps in (20, 30, 45):
        assert f"{mean('metanas', 20) - mean('metanas-frozen', steps):+.3f} [" in line
    assert "(one draw: too few for a verdict), in 1/60 of its time (within the goal of 1/50)" in page
    assert "**unfinished" in page and "the strongest other method here" in page
    # published versions have a table of their own, and do not count for ranks and goals
    main, plain = page.split("Other methods as they were published, without our improvements:")
    assert "| scratch-plain | 0." not in main and "| scratch-plain | 0." in plain
    for name in ("steps", "seconds", "cost", "organs"):
        assert (Path(settings.results) / f"benchmark_test_5shot_{name}.png").stat().st_size < 300 * 1024
        assert f"(benchmark_test_5shot_{name}.png)" in page


def test_cells_of_the_test_groups_are_counted_apart_from_those_of_development(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(0.1)
    alone = report_of(settings, rows)
    assert "cells**. Code: x." in alone  # there is only one kind of group
    development = settings.groups[0].model_copy(update={"name": "dev", "development": True})
    both = settings.model_copy(update={"groups": (*settings.groups, development)})
    done, planned = (int(n) for n in re.findall(r"unfinished: (\d+) of (\d+) cells", alone)[0])
    assert (
        f"**unfinished: {done} of {2 * planned} cells**, of which test groups, the basis of all claims, have {done} of {planned}."
        in report_of(both, rows)
    )


def test_a_comparison_without_matching_cells_is_left_out(settings: BenchmarkSettings, tmp_path: Path) -> None:
    rows = [r for r in made_up_rows(0.1) if r["steps"] not in (30, 45)]  # no method has as many gradients, or our time
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    found = matched(read_results(tmp_path / "results.csv"), "scratch", 20)
    assert difference(*found["equal steps"]) and not found["equal gradient evaluations"][1] and not found["equal seconds"][1]
    page = report_of(settings, rows)
    assert (
        "Goal (at least +0.03 over every other method at equal gradient evaluations): not yet judged (cells are missing: " in page
    )
    assert "At equal seconds" not in page


def test_a_goal_is_not_reached_while_a_method_or_an_organ_is_missing(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(0.1)
    goal = "Goal (at least +0.03 over every other method at equal gradient evaluations): "
    assert f"{goal}reached." in report_of(settings, rows)
    without = [r for r in rows if not (r["method"] == "scratch" and r["organ"] == "left")]
    assert f"{goal}not yet judged (cells are missing: scratch" in report_of(settings, without)
    without = [r for r in rows if r["method"] != "scratch"]
    assert f"{goal}not yet judged (cells are missing: scratch" in report_of(settings, without)
    second = settings.groups[0].model_copy(update={"data": (BenchmarkData(dataset="Other"),), "name": "other"})
    wider = settings.model_copy(update={"groups": (*settings.groups, second)})
    assert f"{goal}not yet judged (cells are missing: metanas, metanas-frozen, scratch" in report_of(wider, rows)


def test_a_goal_waits_for_every_draw_and_seed(settings: BenchmarkSettings) -> None:
    goal = "Goal (at least +0.03 over every other method at equal gradient evaluations): "
    one = made_up_rows(0.1)
    both = [row | {"seed": seed} for seed in (0, 1) for row in one if not seed or METHODS[row["method"]].several_seeds]
    three = settings.model_copy(update={"draws": 3, "seeds": 2})
    assert f"{goal}reached." in report_of(three, both)
    assert f"{goal}not yet judged (cells are missing: metanas, metanas-frozen" in report_of(three, one)
    without = [r for r in both if not (r["method"] == "scratch" and r["draw"] == 2)]
    assert f"{goal}not yet judged (cells are missing: scratch" in report_of(three, without)


def test_a_method_that_is_left_out_is_not_planned_and_the_goal_says_so(settings: BenchmarkSettings) -> None:
    write_csv(Path(settings.results) / "results.csv", [r for r in made_up_rows(0.1) if r["method"] != "scratch"], COLUMNS)
    here = settings.model_copy(update={"shots": (5,), "methods": ("metanas", "metanas-frozen", "scratch"), "each_organ": ()})
    page = write_report(Path(settings.results), here, {"scratch": "it is not installed"}).read_text()
    assert "reached (left out: scratch)." in page
    kept = here.model_copy(update={"methods": ("metanas", "metanas-frozen")})
    assert f"of {len(grid(kept))} cells**" in page


def test_the_report_counts_changed_architectures(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(0.1)
    assert "changed the architecture" not in report_of(settings, rows)  # older results lack this column
    for r in rows:
        if "metanas" in r["method"]:
            r["architecture"] = "0a" if r["draw"] == 0 or r["method"] == "metanas-frozen" or r["steps"] != 20 else f"b{r['draw']}"
    assert "Adapting alpha changed the architecture in 2 of 3 cells." in report_of(settings, rows)


def test_the_page_of_an_unfinished_grid_shows_the_progress_of_each_method(settings: BenchmarkSettings, tmp_path: Path) -> None:
    development = settings.groups[0].model_copy(update={"name": "dev", "development": True})
    few = {"groups": (*settings.groups, development), "methods": ("metanas", "scratch", "joint"), "seeds": 2, "shots": (2, 1)}
    part = settings.model_copy(update=few)
    check_settings(part, part, ["pair"])
    for cell in grid(part):
        if cell.group == "pair" and cell.method == "metanas" and (cell.shots == 2 or cell.target != "all"):
            made_up_cell(part, cell)
    report = benchmark(write_config(part, tmp_path / "benchmark.yaml"), report_only=True)
    assert report
    page = report.read_text().splitlines()
    # three targets, steps 20, 0 and 3; methods without search also have 4 steps and the time of one; fresh weights have one seed
    at = page.index("| method | 2 scan(s), seed 0 | 2 scan(s), seed 1 | 1 scan(s), seed 0 | 1 scan(s), seed 1 |")
    assert page[at + 2 : at + 5] == [
        "| metanas | 9 / 9 | 9 / 9 | 6 / 9 | 6 / 9 |",
        "| joint | 0 / 5 | 0 / 5 | 0 / 5 | 0 / 5 |",
        "| scratch | 0 / 5 |  | 0 / 5 |  |",
    ]
    assert "Without any cell yet: `joint`, `scratch`." in page


def test_the_worst_method_is_found_among_methods_with_the_same_draws(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(-0.3)  # far below all
    assert "Organs on which `metanas` is the worst ranked method: left, right." in report_of(settings, rows)
    # a method with one draw is not compared, and one draw of ours is not enough
    lucky = [r for r in rows if r["method"] in ("metanas", "nnunet-30min") or (r["draw"] == 0 and "plain" not in r["method"])]
    assert "the worst ranked method" not in report_of(settings, lucky)
    assert "the worst ranked method" not in report_of(settings, [r for r in rows if r["method"] != "metanas" or r["draw"] == 0])


def test_the_page_shows_the_cost_of_meta_training(settings: BenchmarkSettings, tmp_path: Path) -> None:
    check_settings(settings, settings, ["pair"])
    pretrain((settings, ("pair", "metanas", 0)))
    note = json.loads((folder_of(settings, ("pair", "metanas", 0)) / "done.json").read_text())
    assert note["iterations"] == settings.run.meta.iterations and note["seconds"] > 0
    assert note["processor_seconds"] > 0 and note["resumed"] is False
    write_json(
        folder_of(settings, ("pair", "joint", 0)) / "done.json", {"seconds": 9.0, "code": "old"}
    )  # as older versions wrote it
    made_up_cell(settings, grid(settings)[0])
    report = benchmark(write_config(settings, tmp_path / "benchmark.yaml"), report_only=True)
    assert report
    with open(report.with_name("meta.csv"), newline="") as source:
        rows = list(csv.DictReader(source))
    assert [(r["held_out"], r["kind"], r["seed"], r["iterations"]) for r in rows] == [
        ("pair", "metanas", "0", "2"),
        ("pair", "joint", "0", ""),
    ]
    assert "## Meta-trainings" in report.read_text() and "| pair | joint | 0 |  | 9.0 |  |  | old |  |" in report.read_text()


def test_the_page_says_what_its_intervals_do_not_cover(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(0.1)
    rows += [r | {"seed": 1} for r in rows if r["method"] == "metanas"]
    page = report_of(settings, rows)
    assert (
        page.count("They do not cover variance between meta-trainings. Meta-trainings a group: `metanas` 2, `metanas-frozen` 1.")
        == 1
    )
    assert "from different patients (from different files where patients are unknown)" in page


def test_the_difference_between_meta_trainings_is_no_margin(settings: BenchmarkSettings, tmp_path: Path) -> None:
    """A method with one seed is compared with our state of that seed; fresh weights with all of our states."""
    rows = made_up_rows(0.1)
    first = {(r["organ"], r["draw"], r["case"], r["steps"]): r["dice"] for r in rows if r["method"] == "metanas"}
    for r in rows:
        r["dice"] = first[r["organ"], r["draw"], r["case"], 20]
    rows += [r | {"seed": 1, "dice": r["dice"] + 0.06} for r in rows if r["method"] == "metanas"]
    rows += [r | {"method": "metanas-random"} for r in rows if r["method"] == "metanas-frozen"]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    rows = read_results(tmp_path / "results.csv")
    for method, gain in (("metanas-frozen", 0.0), ("metanas-random", 0.0), ("scratch", 0.03)):
        margin = difference(*matched(rows, method, 20)["equal steps"])
        assert margin and [margin.mean, margin.low, margin.high] == pytest.approx([gain] * 3, abs=1e-9), method
    # a method that is planned with two seeds and has one is not ranked yet
    assert set(complete(rows)[2]) == {"metanas", "metanas-random", "scratch", "scratch-plain"}
    assert "metanas-frozen" not in {line["method"] for line in step_table(rows)}


def test_two_images_of_a_patient_are_resampled_together() -> None:
    rows = [r | {"support_hash": f"s{r['draw']}"} for r in made_up_rows(0.1) if r["steps"] == 20]

    def margin(rows: list[dict[str, Any]]) -> Margin:
        found = difference([r for r in rows if r["method"] == "metanas"], [r for r in rows if r["method"] == "scratch"])
        assert found
        return found

    one = margin(rows)
    both = margin([*rows, *(r | {"dataset": "Other"} for r in rows)])
    two = margin([*rows, *(r | {"dataset": "Other", "support_hash": f"t{r['draw']}"} for r in rows)])
    assert both.organs == two.organs == 4 and one.organs == 2
    # the same numbers twice are no additional evidence; from other patients they would be
    assert [both.mean, both.low, both.high] == pytest.approx([one.mean, one.low, one.high])
    assert two.high - two.low < 0.9 * (one.high - one.low)


def test_costs_are_means_over_cells_not_over_their_labels(tmp_path: Path) -> None:
    rows = [r for r in made_up_rows(0.1) if r["steps"] == 20]
    rows += [r | {"dataset": "One", "seconds": 90, "multiply_adds": 4 * 10**9} for r in rows if r["organ"] == "left"]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    line = {row["method"]: row for row in organ_table(read_results(tmp_path / "results.csv"))}
    assert line["metanas"]["seconds"] == "60.0" and line["metanas"]["multiply-adds"] == "2.50 G"


def test_an_organ_that_is_hardly_found_counts_as_missed(tmp_path: Path) -> None:
    rows = [r for r in made_up_rows(0.1) if r["steps"] == 20]
    rows = [r | ({"dice": 0.04} if (r["method"], r["draw"], r["case"]) == ("scratch", 1, "case2") else {}) for r in rows]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    line = {row["method"]: row["missed"] for row in organ_table(read_results(tmp_path / "results.csv"))}
    assert line["metanas"] == "0 of 24" and line["scratch"] == "2 of 24"


def test_a_margin_over_fewer_organs_is_marked_and_is_not_the_strongest(settings: BenchmarkSettings) -> None:
    rows = [r | {"dataset": name} for name in ("Phantom06_Pair", "Other") for r in made_up_rows(0.1)]
    rows = [
        r | {"dice": 0.99} if r["method"] == "scratch" else r for r in rows if (r["method"], r["dataset"]) != ("scratch", "Other")
    ]
    page = report_of(settings, rows)
    line = next(line for line in page.splitlines() if line.startswith("| scratch |") and "[" in line)
    assert line.count("(2 of 4 organs)") == 3
    assert "At equal gradient evaluations, `metanas` is 0.0" in page and "`scratch` (beyond noise), the strongest" not in page
    assert "`nnunet-30min` (one draw: too few for a verdict), in" in page


def test_two_draws_give_no_verdict(settings: BenchmarkSettings) -> None:
    page = report_of(settings, [r for r in made_up_rows(0.1) if r["draw"] < 2])
    assert "above `metanas-frozen` (two draws: too few for a verdict)" in page
    assert "beyond noise" not in page and "within noise" not in page and "] (two draws)" in page


def test_steps_are_compared_on_the_draws_that_all_have(tmp_path: Path) -> None:
    rows = [r for r in made_up_rows(0.1) if not (r["steps"] == 100 and r["draw"] == 2)]  # a grid that stopped in its curves
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    line = {row["method"]: row for row in step_table(read_results(tmp_path / "results.csv"))}
    for method, steps in (("metanas", 20), ("scratch", 0), ("scratch", 100)):
        mine = [r["dice"] for r in rows if (r["method"], r["steps"], r["case"]) == (method, steps, "case0") and r["draw"] < 2]
        assert line[method][str(steps)] == f"{np.mean(mine):.3f}" and len(mine) == 4


def test_a_mean_is_compared_with_ours_only_where_it_covers_the_same_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Column by column: a method of one group, of one draw, or with an organ missing at one number of steps."""
    rows = made_up_rows(0.1)
    rows += [r | {"dataset": "Other", "dice": 0.1} for r in rows if r["method"] != "scratch-plain"]
    rows = [r for r in rows if not (r["method"] == "scratch" and r["steps"] == 100 and r["organ"] == "left")]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    rows = read_results(tmp_path / "results.csv")
    line = {row["method"]: row for row in step_table(rows)}
    assert set(line) == {"metanas", "metanas-frozen", "scratch"}  # neither the method of one group nor the one with one draw
    assert line["scratch"]["100"] == "" and all(line["scratch"][n] for n in ("0", "20", "30"))
    assert line["metanas"]["30"] == "" and all(line["metanas-frozen"][n] for n in ("0", "20", "30", "100"))
    drawn: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(figures, "curves", lambda path, points, *rest: drawn.update({Path(path).stem: points}))
    organs: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(figures, "panels", lambda path, groups, *rest, **more: organs.update(groups))
    figures.write_figures(tmp_path, "x", rows, "")
    assert list(organs) == ["Other left", "Other right", "Phantom06 left", "Phantom06 right"]
    for name, lines in organs.items():  # ours has no rows at 30 steps; scratch has none at 100 steps of the left organ
        assert [line["steps"] for line in lines] == [0, 20, 30, 100]
        assert [n for n, line in zip((0, 20, 30, 100), lines, strict=True) if "metanas" in line] == [0, 20, 100]
        assert ("scratch" in lines[-1]) == ("right" in name) and all("scratch" in line for line in lines[:-1])
    mine = [r["dice"] for r in rows if (r["method"], r["steps"], r["organ"], r["case"]) == ("scratch", 20, "left", "case0")]
    assert organs["Other left"][1]["scratch"] == pytest.approx(0.1)
    assert organs["Phantom06 left"][1]["scratch"] == pytest.approx(np.mean(mine[:3]))
    figures.write_shots_figure(tmp_path / "x_shots.png", rows, "")
    for points in drawn.values():
        assert {name for point in points for name in point} & set(METHODS) == {"metanas", "metanas-frozen", "scratch"}
    assert sorted(p["steps"] for p in drawn["x_steps"] if "scratch" in p) == [0, 20, 30, 45]


def test_a_curve_of_an_organ_has_the_draws_and_cases_of_ours() -> None:
    rows = [r for r in made_up_rows(0.1) if r["case"] == "case0"]
    part = [r for r in rows if not (r["method"] == "scratch" and r["steps"] == 30 and r["draw"] == 1 and r["organ"] == "left")]
    part += [r | {"organ": "extra"} for r in part if r["method"] == "scratch"]  # an organ that ours does not have
    drawn = figures.organ_steps(part, ["metanas", "metanas-frozen", "scratch"])
    assert set(drawn) == {"left", "right"}
    thirty = {name: next(line for line in lines if line["steps"] == 30) for name, lines in drawn.items()}
    assert "scratch" not in thirty["left"] and "scratch" in thirty["right"] and "metanas-frozen" in thirty["left"]


def test_development_groups_do_not_count_for_the_claim(settings: BenchmarkSettings) -> None:
    bad = [r | {"development": 1, "held_out": "dev", "organ": "prostate"} for r in made_up_rows(-0.4)]
    page = report_of(settings, made_up_rows(0.1) + bad)
    test, development = page.split("## Development groups")
    assert "equal gradient evaluations): reached." in test and "prostate" not in test
    assert "Goal" not in development and "below `nnunet-30min`" in development


def test_the_goal_of_an_unfinished_grid_is_not_missed_yet(settings: BenchmarkSettings) -> None:
    without = [r for r in made_up_rows(0.01) if not (r["method"] == "scratch" and r["organ"] == "left")]
    page = report_of(settings, without)
    assert "not yet judged (cells are missing: scratch; so far reached against " in page and "missed: reached" not in page


def test_times_are_compared_on_the_draws_that_both_have(settings: BenchmarkSettings) -> None:
    rows = [r | ({"seconds": 600} if r["method"] == "metanas" and r["draw"] else {}) for r in made_up_rows(0.1)]
    assert "in 1/60 of its time" in report_of(settings, rows)  # nnU-Net has only the first draw, in which ours took 30 s


def test_times_of_other_devices_are_not_compared(settings: BenchmarkSettings, tmp_path: Path) -> None:
    rows = [r | ({} if r["method"] == "nnunet-30min" else {"device": "cuda"}) for r in made_up_rows(0.1)]
    page = report_of(settings, rows)
    assert "on other devices (cuda; cpu), so times are not compared" in page and "of its time" not in page
    assert "At equal seconds" in page and "| 30.0 (cuda) |" in page and "| 1800.0 (cpu) |" in page
    assert "(cpu) |" not in report_of(settings, made_up_rows(0.1))
    # cells of several kinds of device have no common mean
    rows = [r | ({"device": "cuda", "seconds": 4} if r["method"] == "metanas" and r["draw"] else {}) for r in made_up_rows(0.1)]
    assert "| 30.0 (cpu), 4.0 (cuda) |" in report_of(settings, rows)
    # a cell with the time of a search on another kind of device does not count at equal seconds
    rows = [r | ({"device": "cuda"} if r["budget"] == "x1" and r["draw"] else {}) for r in made_up_rows(0.1)]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    ours, other = matched(read_results(tmp_path / "results.csv"), "scratch", 20)["equal seconds"]
    assert {r["draw"] for r in ours} == {r["draw"] for r in other} == {0}


def test_starts_are_compared_in_the_time_of_ten_adaptations(settings: BenchmarkSettings) -> None:
    rows, long = made_up_rows(0.1), {"budget": "x10", "steps": 300, "gradient_evaluations": 300}
    for gain, method in ((0.0, "scratch-10x"), (0.25, "metanas-10x")):
        kept = [r for r in rows if r["method"] == "scratch" and r["steps"] == 20 and not r["budget"]]
        rows = rows + [r | long | {"method": method, "dice": r["dice"] + gain} for r in kept]
    page = report_of(settings, rows)
    assert (
        "In the time of ten adaptations, `metanas-10x` is 0.250 Dice [+0.250, +0.250] above `scratch-10x` (beyond noise)." in page
    )
    assert "ten adaptations, `metanas" not in report_of(settings, made_up_rows(0.1))
    other = [r | ({"device": "cuda"} if r["method"] == "scratch-10x" else {}) for r in rows]
    assert "ten adaptations, `metanas" not in report_of(settings, other)
