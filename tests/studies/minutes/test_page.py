"""The page of the study: goals are met or missed by the numbers, and every number comes from the CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from metanas_med.cli import main
from metanas_med.files import read_csv, write_csv, write_json
from metanas_med.studies.minutes.page import goals, nnunet_rows, publish, text_of
from metanas_med.studies.minutes.settings import MinutesStudySettings
from metanas_med.studies.minutes.values import Results, typed

from .conftest import made_up

ROWS = made_up({"minutes": 0.74, "default": 0.72, "fresh": 0.75}) + made_up({"minutes": 0.83, "default": 0.8, "fresh": 0.8}, 300)
LONG = made_up({"minutes": 0.86, "default": 0.85}, 1800, datasets="A", draws=1)


def by_goal(rows: list[dict[str, str]]) -> dict[str, tuple[str, str]]:
    return {row["goal"]: (row["found"], row["met"]) for row in goals(Results(typed(rows)))}


def test_goals_are_met_or_missed_by_the_numbers() -> None:
    found = by_goal(ROWS + LONG)
    assert found["1 min, 5 scans: at or above every other method"] == ("-0.010 (fresh)", "no")
    assert found["5 min, 5 scans: at or above every other method"] == ("+0.030 (default)", "yes")
    assert found["5 minutes: 0.02 above its default"] == ("+0.030", "yes")
    assert found["30 minutes, hippocampus: at least 0.857"] == ("0.860", "yes")
    assert by_goal(ROWS)["30 minutes, hippocampus: at least 0.857"] == ("not run", "")
    assert found["the choice differs from the default in a third of the tasks"] == ("0.000", "no")


def test_choices_are_compared_with_the_default_for_as_long() -> None:
    rows = [r | {"chosen": "levels=3"} if (r["method"], r["budget_seconds"]) == ("minutes", "300") else r for r in ROWS]
    found = by_goal(rows)
    assert found["the choice differs from the default in a third of the tasks"] == ("0.500", "yes")
    assert found["where it differs: a gain whose interval excludes zero"] == ("+0.030 [+0.030, +0.030]", "yes")
    text = text_of(Results(typed(rows)))
    assert "differs from the default in 4 of 8 tasks" in text and "| A | 5 min, 5 scans | 0 | levels=3 | +0.030 |" in text


def test_expected_dice_is_compared_with_what_was_measured() -> None:
    told = {"expected": "0.8", "expected_low": "0.7", "expected_high": "0.82"}
    rows = [r | told if r["method"] == "minutes" else r for r in ROWS]
    text = text_of(Results(typed(rows)))
    assert "| 1 min, 5 scans | 4 of 4 | +0.060 | 0.120 |" in text and "| 5 min, 5 scans | 0 of 4 | -0.030 | 0.120 |" in text
    assert "No cell of `adapt --minutes` gave an interval." in text_of(Results(typed(ROWS)))


def test_means_weigh_data_sets_equally_and_need_them_all() -> None:
    rows = made_up({"minutes": 0.8}, datasets="A", draws=3) + made_up({"minutes": 0.6, "fresh": 0.5}, datasets="B", draws=1)
    found = Results(typed(rows))
    assert found.dice("minutes", 5, 60) == pytest.approx(0.7) and found.dice("fresh", 5, 60) is None
    assert found.dice("fresh", 5, 60, "B") == pytest.approx(0.5)
    assert "| 1 min, 5 scans | 2 | 3 | 0.700 | not run |" in text_of(found)


def test_page_and_figure_are_written_from_the_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "minutes.csv", ROWS + LONG)
    arguments = ["study", "minutes", "--report", "--out", str(tmp_path / "none"), "--results", str(tmp_path)]
    assert main(arguments) == 0
    text = (tmp_path / "minutes.md").read_text()
    assert (tmp_path / "minutes.png").stat().st_size and "](minutes.png)" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    (tmp_path / "minutes.csv").unlink()
    assert main(arguments) == 2 and "found no rows" in capsys.readouterr().err


def test_nnunet_of_the_same_support_is_taken_from_the_benchmark(tmp_path: Path) -> None:
    own = {
        "dataset": "A",
        "target": "all",
        "method": "nnunet-30min",
        "shots": 5,
        "support_hash": "A0",
        "steps": 9,
        "seconds": 1700,
    }
    own |= {"device": "cpu", "code": "c"}
    rows = [own | {"case": case, "organ": organ, "dice": 0.8 + 0.1 * (organ == "x")} for case in ("p", "q") for organ in "xy"]
    write_csv(tmp_path / "results.csv.xz", [*rows, rows[0] | {"support_hash": "other"}, rows[0] | {"method": "scratch"}])
    (found,) = nnunet_rows(tmp_path / "results.csv", ROWS)
    assert found["dice"] == pytest.approx(0.85) and found["dice_by_scan"] == "0.85000 0.85000" and found["draw"] == "0"
    assert not nnunet_rows(tmp_path / "results.csv", [{**ROWS[0], "num_query": "3"}])
    assert not nnunet_rows(tmp_path / "none.csv", ROWS)

    for number, row in enumerate(ROWS):
        write_json(tmp_path / "out" / "cells" / f"{number}.json", {"row": row})
    settings = MinutesStudySettings(out=str(tmp_path / "out"), nnunet=str(tmp_path / "results.csv"))
    assert "| 30 min, 5 scans |" in publish(settings).read_text()
    assert [r["method"] for r in read_csv(tmp_path / "out" / "minutes.csv")].count("nnunet") == 1
