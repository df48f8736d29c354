"""A portfolio adds what complements it, leaves noise out, and is valued on data sets that did not make it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.minutes.portfolio import read_portfolio
from metanas_med.files import read_csv, write_csv
from metanas_med.studies.choose.table import over_tasks, table_of
from metanas_med.studies.portfolio.greedy import best_of, greedy, leave_one_out
from metanas_med.studies.portfolio.page import entries_of

from ..choose.conftest import made_up

#: 2 is best in the mean, 3 repeats it with less, 4 helps where 2 does not
TRUTH = {
    "A": {"default": 0.5, "2": 0.60, "3": 0.59, "4": 0.4},
    "B": {"default": 0.5, "2": 0.60, "3": 0.59, "4": 0.4},
    "C": {"default": 0.5, "2": 0.45, "3": 0.45, "4": 0.55},
}


def test_what_complements_the_list_is_added() -> None:
    made = greedy(table_of(made_up(TRUTH)), size=6)
    assert made.members == (0, 1, 3) and made.added == pytest.approx((0.0, 0.2 / 3, 0.05 / 3))
    assert greedy(table_of(made_up(TRUTH)), size=2).members == (0, 1)


def test_noise_adds_nothing() -> None:
    flat = {name: dict.fromkeys([str(n) if n else "default" for n in range(16)], 0.5) for name in "ABCDE"}
    table = table_of(made_up(flat, noise=0.03, draws=20))
    made = greedy(table, size=6)
    assert sum(made.added) < 0.02  # the best of five noisy values would be 0.035 above their mean
    assert abs(over_tasks(table, leave_one_out(table, 6)[1]).mean) < 0.01


def test_a_left_out_data_set_values_the_list_of_the_others() -> None:
    table = table_of(made_up(TRUTH))
    found, gains = leave_one_out(table, 6)
    by_name = {each.dataset: each for each in found}
    assert by_name["C"].portfolio.members == (0, 1) and by_name["C"].gain == pytest.approx(0)
    assert by_name["A"].portfolio.members == (0, 1, 3) and by_name["A"].gain == pytest.approx(0.1)
    assert over_tasks(table, gains).mean == pytest.approx(0.2 / 3)
    np.testing.assert_allclose(best_of(table, [0, 1])[table.members[2]], 0.5)


def test_costs_are_relative_to_the_default() -> None:
    rows = made_up(TRUTH)
    for row in rows:  # another machine's load changes both
        row["step_seconds"] = str(float(row["step_seconds"]) * (1 + int(row["draw"])))
    table = table_of(rows)
    assert table.relative_seconds == pytest.approx([1, 2, 3, 4])
    assert [e["relative_seconds"] for e in entries_of(table, greedy(table, 6))] == [1, 2, 4]


def test_costs_at_equal_time_are_those_that_were_measured_first() -> None:
    """Cells that run next to others take longer; their numbers of steps come from idle cores."""
    rows = made_up(TRUTH)
    names = list(dict.fromkeys(row["configuration"] for row in rows))
    for row in rows:
        row["step_seconds"] = str(7 * float(row["step_seconds"]) ** 2)
        row["steps"] = str([30, 60, 20, 15][names.index(row["configuration"])])
    assert table_of(rows).relative_seconds == pytest.approx([1, 0.5, 1.5, 2])


def test_page_csv_and_the_start_are_written(tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for name in ("last.json", "last.safetensors"):
        (start / name).write_bytes((tiny_run / name).read_bytes())
    rows = made_up(TRUTH)
    write_csv(tmp_path / "scores.csv", rows)
    arguments = ["study", "portfolio", "--report", "--out", str(tmp_path / "none"), "--results", str(tmp_path)]
    assert main([*arguments, "--into", str(start)]) == 0
    text = (tmp_path / "portfolio.md").read_text()
    assert "| 2 | +0.067 | +0.050 [" in text and "| C | 2 | +0.000 |" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    assert [r["configuration"] for r in read_csv(tmp_path / "portfolio.csv")] == ["default", "2", "4"]

    run = MetaRun.load(start)
    found = read_portfolio(start, run, run.settings.adapt, run.settings.plan)
    assert [c.configuration.name for c in found.candidates] == ["default", "batch=2", "batch=4"]
    assert [c.seconds for c in found.candidates] == [1, 2, 4] and found.candidates[1].gain == pytest.approx(0.05)

    write_csv(tmp_path / "scores.csv", [{**row, "picks": row["picks"].replace("batch", "nowhere")} for row in rows])
    capsys.readouterr()
    (start / "portfolio.json").unlink()
    assert main([*arguments, "--into", str(start)]) == 2
    assert "the start cannot take nowhere=2" in capsys.readouterr().err and not (start / "portfolio.json").exists()
    assert main([*arguments, "--size", "1"]) == 2
