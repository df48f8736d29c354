"""A planted problem: labels are made by a network of known operations, which the search has to find on all edges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metanas_med.learner.evidence import NOT_APART, apart_line
from metanas_med.studies.planted.problem import ALIKE, LEARNER, Problem, search
from metanas_med.studies.planted.run import CASES, page


def test_a_search_returns_the_planted_and_the_found_operations() -> None:
    small = Problem(num_scans=4, side=6, num_organs=2, num_inputs=2, base_width=4)
    small = replace(small, learner=LEARNER.model_copy(update={"steps": 3, "batch": 2, "ridge_voxels": 100}))
    one, again, other = search(small, 0), search(small, 0), search(small, 1)
    assert len(one.planted) == 4 and one.planted.keys() == one.found.keys()
    assert one.probability == again.probability and one.planted == again.planted
    assert one.planted != other.planted and one.report.num_rows == 4


def test_of_options_that_imitate_each_other_a_short_search_says_so() -> None:
    small = Problem(ALIKE, num_scans=4, side=6, num_organs=2, num_inputs=2, base_width=4)
    small = replace(small, learner=LEARNER.model_copy(update={"steps": 3, "batch": 2, "ridge_voxels": 100}))
    report = search(small, 0).report
    assert report.undecided is not None and NOT_APART in apart_line(report.undecided, report.num_rows)


@pytest.mark.parametrize("right", [0, 1])
def test_the_page_counts_seeds_whose_rows_are_all_right(right: int) -> None:
    rows = [
        {"case": case, "seed": 0, "row": row, "planted": "a", "found": "a" if right or row == "x" else "b"}
        | {"probability": 0.5, "told_apart": 0}
        for case in CASES
        for row in ("x", "y")
    ]
    text = page(rows)
    assert f"{right} of 1 seeds" in text and NOT_APART in text
