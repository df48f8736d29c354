"""The page of the study: every number comes from the CSV, and what was not run says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.files import write_csv
from metanas_med.report.statistics import paired_margin
from metanas_med.studies.start.page import page, write_page
from metanas_med.studies.start.values import Results, typed

from .conftest import SETS, made_up

FRESH = made_up("fresh", {0: 0.0, 20: 0.1, 100: 0.2}, train_seconds=0, iterations=0, num_sets=0)


def part(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_goal_is_met_or_missed_by_the_numbers() -> None:
    good = made_up("good", {0: 0.1, 20: 0.151, 100: 0.231})
    late = made_up("late", {0: 0.1, 20: 0.149, 100: 0.24})
    both = part(page(typed(FRESH + good + late)), "Goal")
    assert "**Met** by good." in both
    assert "| good | met, +0.051 | met, +0.031 |" in both and "| late | missed, +0.049 | met, +0.040 |" in both
    assert "**Missed** by every recipe." in part(page(typed(FRESH + late)), "Goal")


def test_a_goal_without_its_steps_is_not_judged() -> None:
    short = made_up("short", {0: 0.1, 20: 0.3})
    text = part(page(typed(FRESH + short)), "Goal")
    assert "Not judged yet" in text and "| short | met, +0.200 | not run |" in text


def test_gains_are_paired_by_data_set_and_groups_weigh_equally() -> None:
    uneven = [r for r in made_up("uneven", {20: 0.2}) if r["dataset"] != "Two"]
    for row, value in zip(uneven, (0.9, 0.7, 0.8), strict=True):
        row["dice"] = str(value)
    fresh = [r for r in FRESH if r["dataset"] != "Two"]
    found = Results(typed(fresh + uneven))
    gains = found.gains("uneven", 20)
    assert gains == pytest.approx({("lung", "One"): 0.3, ("left_knee", "Three"): 0.1, ("left_knee", "Four"): 0.19})
    margin = found.gain("uneven", 20)
    assert margin is not None and margin.mean == pytest.approx((0.3 + (0.1 + 0.19) / 2) / 2)
    assert margin.low < margin.mean < margin.high
    # data sets are what is resampled
    own = paired_margin({"": np.array([0.3 * 1.5, 0.1 * 0.75, 0.19 * 0.75])[None, :, None]})
    assert (margin.low, margin.high) == pytest.approx((own.low, own.high))


def test_recipes_are_side_by_side_with_what_they_cost() -> None:
    two = made_up("two", {20: 0.2}) + made_up("two", {20: 0.22}, seed=1)
    text = page(typed(FRESH + two))
    line = next(line for line in part(text, "Recipes").splitlines() if line.startswith("| two"))
    assert "0.715" in line and "+0.110 [+0.110, +0.110]" in line and line.endswith("| 530 | 420 | 17 | 2 | 1 |")
    assert "| two | +0.110 | not run | +0.110 | not run |" in part(text, "By group") and "left knee, 20" in text
    assert "Two seeds or more: two" in part(text, "Limits")


def test_what_is_incomplete_is_named_and_not_shown() -> None:
    half = [r for r in made_up("half", {20: 0.9}) if r["dataset"] != "Four"]
    text = page(typed(FRESH + half))
    assert "Incomplete, and therefore not shown: half at 20 steps." in text
    assert "0.9" not in part(text, "By group") and "**Not judged yet.**" in text


def test_series_are_sorted_by_what_they_vary() -> None:
    long = made_up("long", {20: 0.2}, series="time", train_seconds=1260.0)
    base = made_up("base", {20: 0.15}, series="time sets width")
    few = made_up("few", {20: 0.12}, series="sets", num_sets=6)
    wide = made_up("wide", {20: 0.2}, series="width", base_width=16, parameters=4000)
    fresh16 = [{**row, "base_width": "16"} for row in made_up("fresh", {20: 0.19}, train_seconds=0, iterations=0, num_sets=0)]
    text = page(typed(FRESH + long + base + few + wide + fresh16))
    names = [
        line.split("|")[1].strip() for line in part(text, "Dice against training time").splitlines() if line.startswith("| ")
    ]
    assert names[2:] == ["fresh weights", "base", "long"]
    assert "| few | 6 | " in part(text, "Gain against number of data sets")
    assert "| wide | 16 | 4000 |" in part(text, "Width") and "+0.010 [+0.010, +0.010]" in part(text, "Width")
    assert "fresh weights, base width 16" in part(text, "Recipes")


def test_missing_parts_are_not_run() -> None:
    text = page(typed(FRESH + made_up("only", {20: 0.2})))
    for title in ("Dice against training time", "Gain against number of data sets", "Width", "Organs that chose nothing"):
        assert part(text, title).strip() == "Not run."


def test_final_organs_stand_apart() -> None:
    final = [{**row, "final": "1"} for row in FRESH + made_up("chosen", {20: 0.3})]
    text = page(typed(FRESH + made_up("chosen", {20: 0.2}) + final))
    assert "+0.200" in part(text, "Organs that chose nothing") and "+0.200" not in part(text, "Recipes")
    assert "lung and left knee" in text
    alone = page(typed(final))
    assert "## Goal" not in alone and "+0.200" in alone and "4 data sets of 2 groups" in alone


def test_the_page_and_its_figures_are_written_from_the_csv(tmp_path: Path) -> None:
    rows = FRESH + made_up("base", {0: 0.1, 20: 0.15}, series="time")
    rows += made_up("long", {0: 0.1, 20: 0.2}, series="time", train_seconds=1260.0)
    write_csv(tmp_path / "start.csv", rows)
    assert main(["study", "start", "--report", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "start.md").read_text()
    assert (tmp_path / "start.png").stat().st_size and (tmp_path / "start_time.png").stat().st_size
    assert "![Dice against training time](start_time.png)" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    assert write_page(tmp_path).read_text() == text
    assert set(SETS.values()) == {"lung", "left_knee"}


def test_a_report_without_rows_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "start", "--report", "--out", str(tmp_path)]) == 2
    assert "found no rows" in capsys.readouterr().err and not (tmp_path / "start.md").exists()
