"""A planted problem: labels are made by a network of known operations, which the search has to find on all edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metanas_med.files import read_csv
from metanas_med.learner.evidence import NOT_APART, apart_line
from metanas_med.studies.planted.problem import ALIKE, LEARNER, Problem, search
from metanas_med.studies.planted.run import CASES, page, planted

SHORT = Problem(num_scans=4, side=5, num_edges=2, warm_up=1, learner=LEARNER.model_copy(update={"steps": 3, "batch": 2}))


@pytest.mark.parametrize("seed", [0, 5])
def test_the_search_finds_every_planted_operation(seed: int) -> None:
    found = search(Problem(), seed)
    assert found.found == found.planted and len(set(found.planted.values())) == 3
    assert min(found.probability.values()) > 0.6 and found.report.undecided == []


def test_alphas_stay_near_uniform_where_kernels_can_imitate_each_other_and_the_report_says_so() -> None:
    found = search(Problem(ALIKE, ("conv111",)), 0)
    assert found.report.losses[-1] < 0.5 * found.report.losses[0] < 0.5  # the options do the planted work
    assert max(found.probability.values()) < 0.3
    line = apart_line(found.report.undecided or [], found.report.num_rows)
    assert line.startswith(f"alpha: in 5 of 5 row(s) {NOT_APART}")


def test_a_seed_draws_the_problem() -> None:
    one, again, other = search(SHORT, 0), search(SHORT, 0), search(SHORT, 1)
    assert len(one.planted) == 2 and one.planted.keys() == one.found.keys()
    assert one.probability == again.probability and one.planted == again.planted
    assert one.planted != other.planted and one.report.num_rows == 2


def test_the_study_keeps_rows_of_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = iter(["one", "one", "two"])
    monkeypatch.setattr("metanas_med.studies.planted.run.code_revision", lambda: next(revisions))
    cases = {name: replace(SHORT, candidates=p.candidates, planted=p.planted) for name, p in CASES.items()}
    planted(tmp_path, 1, cases)
    first = read_csv(tmp_path / "planted.csv")
    assert [(r["seed"], r["code"]) for r in first] == [("0", "one")] * 4
    text = planted(tmp_path, 2, cases).read_text()
    assert read_csv(tmp_path / "planted.csv")[:2] == first[:2] and len(read_csv(tmp_path / "planted.csv")) == 8
    assert "of 2 seeds" in text
    planted(tmp_path, 1, cases)
    assert {r["code"] for r in read_csv(tmp_path / "planted.csv")} == {"two"}


@pytest.mark.parametrize("right", [0, 1])
def test_the_page_counts_seeds_whose_edges_are_all_right(right: int) -> None:
    rows = [
        {"case": case, "seed": 0, "row": row, "planted": "a", "found": "a" if right or row == "x" else "b"}
        | {"probability": 0.5, "told_apart": 0}
        for case in CASES
        for row in ("x", "y")
    ]
    text = page(rows)
    assert f"{right} of 1 seeds" in text and f"{1 + right} of 2" in text and NOT_APART in text
