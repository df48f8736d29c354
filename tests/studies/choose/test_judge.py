"""What a choice gains and loses: every number of the page comes from the rows, and noise does not pay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import read_csv, write_csv
from metanas_med.studies.choose.judge import BELIEF, CAREFUL, PRIOR, combined, judge, prior_of, ways_of
from metanas_med.studies.choose.page import text_of, write_rows
from metanas_med.studies.choose.table import over_tasks, table_of

from .conftest import made_up

TRUTH = {
    "A": {"default": 0.70, "2": 0.76, "3": 0.64},
    "B": {"default": 0.60, "2": 0.62, "3": 0.68},
    "C": {"default": 0.50, "2": 0.54, "3": 0.50},
}


def by_name(rows: list[dict[str, str]]) -> dict:
    return {each.name: each for each in judge(table_of(rows))}


def test_gain_and_regret_follow_from_the_choice() -> None:
    found = by_name(made_up(TRUTH, knows=lambda d, n: TRUTH[d][n], wrong=lambda d, n: -TRUTH[d][n]))
    hindsight = (0.06 + 0.08 + 0.04) / 3
    assert found["the best in hindsight"].gain.mean == pytest.approx(hindsight)
    assert found["knows"].gain.mean == pytest.approx(hindsight) and found["knows"].regret.mean == pytest.approx(0)
    assert found["knows"].rank.mean == pytest.approx(1) and found["knows"].seconds == 2.0
    assert found["wrong"].gain.mean == pytest.approx((-0.06 + 0 + 0) / 3) and found["wrong"].rank.mean == pytest.approx(-1)
    assert found["the default"].gain.mean == 0 and found["the default"].regret.mean == pytest.approx(hindsight)
    assert found["a random choice"].gain.mean == pytest.approx(np.mean([0, 0.1 / 3, 0.04 / 3]))
    # multiply-adds fall with the number of the configuration: the default is chosen
    assert found["multiply_adds"].gain.mean == 0
    names = [each.name for each in judge(table_of(made_up(TRUTH, knows=lambda d, n: TRUTH[d][n])))]
    assert names[0] in ("knows", f"knows, with {PRIOR}") and names[-1] == "the best in hindsight"


def test_noise_alone_makes_no_best_in_hindsight() -> None:
    flat = {name: dict.fromkeys([str(n) if n else "default" for n in range(16)], 0.5) for name in "ABCDE"}
    table = table_of(made_up(flat, noise=0.05, draws=40))
    assert abs(over_tasks(table, table.best - 0.5).mean) < 0.01 < 0.05 < over_tasks(table, table.first.max(1) - 0.5).mean


def test_other_data_sets_give_the_prior() -> None:
    table = table_of(made_up(TRUTH))
    prior = prior_of(table)
    assert not prior[:, 0].any()
    spread = {d: np.std([*dice.values()]) for d, dice in TRUTH.items()}
    expected = np.mean([0.02 / spread["B"], 0.04 / spread["C"]])
    assert prior[table.members[0], 1] == pytest.approx([expected] * 3)
    # what its own data set found changes nothing
    other = {**TRUTH, "A": {"default": 0.1, "2": 0.9, "3": 0.9}}
    assert prior_of(table_of(made_up(other)))[table.members[0]] == pytest.approx(prior[table.members[0]])
    assert PRIOR not in ways_of(table_of(made_up({"A": TRUTH["A"]})))


def test_a_combination_is_a_sum_of_standardised_parts() -> None:
    scores, prior = np.array([[1.0, 2.0, 3.0, np.nan]]), np.array([[4.0, 0.0, 2.0, 9.0]])
    both = combined(scores, prior)
    assert np.isnan(both[0, 3]) and np.nanargmax(both[0]) == 2
    assert combined(10 * scores, prior)[0, :3] == pytest.approx(both[0, :3])


def test_the_careful_choice_keeps_the_default_without_a_clear_lead() -> None:
    rows = made_up({"A": TRUTH["A"]}, draws=2)
    for row in rows:
        clear = row["draw"] == "0"
        lead = {"default": [0.0] * 4, "2": [0.1, 0.1, 0.1, 0.09] if clear else [0.3, -0.2, 0.0, 0.0], "3": [-0.1] * 4}
        row["scans_folds"] = " ".join(f"{0.5 + value}" for value in lead[row["configuration"]])
    table = table_of(rows)
    assert ways_of(table)[CAREFUL].tolist() == [[0, 1, 0], [1, 0, 0]]
    judged = by_name(rows)[CAREFUL]
    assert judged.rank is None and judged.gain.mean == pytest.approx(0.03)


def test_a_belief_weighs_other_data_sets_and_left_out_scans() -> None:
    truth = {name: {"default": 0.5, "2": 0.54, "3": 0.46} for name in "ABC"}
    rows = made_up(truth)
    for row in rows:  # the scans say the opposite, surely or not, in the first two draws and nothing in the third
        sign = {"default": 0.0, "2": -1.0, "3": 1.0}[row["configuration"]]
        lead = {"0": [0.1, 0.1, 0.11], "1": [0.6, -0.6, 0.3], "2": [0.0, 0.0, 0.0]}[row["draw"]]
        row["scans_folds"] = " ".join(f"{0.5 + sign * value}" for value in lead)
    chosen = ways_of(table_of(rows))[BELIEF].argmax(1).reshape(3, 3)
    assert (chosen[:, 1] == 1).all() and BELIEF in by_name(rows)


def test_intervals_resample_data_sets_and_draws() -> None:
    table = table_of(made_up(TRUTH, draws=2))
    found = over_tasks(table, np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.3]))
    assert found.mean == pytest.approx(0.2) and 0.1 <= found.low < 0.15 and 0.25 < found.high <= 0.3
    # draws of one data set weigh as much as one of another
    assert over_tasks(table, np.array([0.1, np.nan, 0.2, 0.2, 0.3, 0.3])).mean == pytest.approx(0.2)


def test_incomplete_tasks_are_named_and_left_out() -> None:
    rows = [r for r in made_up(TRUTH, draws=2) if (r["dataset"], r["draw"], r["configuration"]) != ("B", "1", "3")]
    table = table_of(rows)
    assert len(table.tasks) == 5 and table.incomplete == ("B, draw 1",)
    assert "Incomplete, and left out: B, draw 1." in text_of(rows)
    with pytest.raises(DataError, match="cells of all 3 configurations"):
        table_of([r for r in rows if r["configuration"] != "3"] + [{**rows[0], "draw": "9", "configuration": "3"}])
    with pytest.raises(DataError, match="the default and of another"):
        table_of([r for r in rows if r["configuration"] == "default"])


def test_the_page_comes_from_the_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "scores.csv", made_up(TRUTH, knows=lambda d, n: TRUTH[d][n]))
    arguments = ["study", "scores", "--report", "--out", str(tmp_path / "none"), "--results", str(tmp_path)]
    assert main(arguments) == 0
    text = (tmp_path / "scores.md").read_text()
    assert "| knows | 1.000 [1.000, 1.000] | +0.060 [" in text and "| 3 | " in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    (tmp_path / "scores.csv").unlink()
    assert main(arguments) == 2 and "found no rows" in capsys.readouterr().err


def test_published_cells_are_not_lost(tmp_path: Path) -> None:
    rows = made_up(TRUTH)
    write_rows(tmp_path / "scores.csv", [{"row": row} for row in rows], ["default", "2", "3"])
    assert len(read_csv(tmp_path / "scores.csv")) == len(rows)
    with pytest.raises(ConfigError, match="3 cell"):
        write_rows(tmp_path / "scores.csv", [{"row": row} for row in rows[3:]], ["default"])
