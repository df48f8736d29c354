"""Which organs are annotated in a scan: read from dataset.json or the card, checked, and kept in the cache."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.dataset import survey_dataset
from metanas_med.errors import DataError

EMPTY = np.zeros((10, 12, 8), np.uint8)


@pytest.fixture
def partial(make_msd, save_nifti):
    """A data set whose case_1 shows ``first`` alone, and a function that writes what is annotated in each case."""
    root = make_msd()
    label = EMPTY.copy()
    label[1, 2:5, 3:6] = 1
    save_nifti(root / "labelsTr/case_1.nii.gz", label)

    def say(**organs) -> None:
        path = root / "dataset.json"
        tree = json.loads(path.read_text())
        for entry in tree["training"]:
            entry.pop("annotated", None)
            name = entry["image"].split("/")[-1].removesuffix(".nii.gz")
            if name in organs:
                entry["annotated"] = organs[name]
        path.write_text(json.dumps(tree))

    return root, say


@pytest.mark.parametrize("organs", [["first"], [1], ["1"], ["FIRST"]])
def test_a_scan_may_say_which_organs_are_annotated_in_it(partial, cache_dir, organs):
    root, say = partial
    say(case_1=organs, case_2=["second", "first"])
    (row,) = prepare([root], cache_dir)
    assert "2 of 3 cases annotate second" in row.notes
    cases = {case.name: case for case in open_cache(cache_dir / "Toy.h5").cases}
    # all organs is the same as no word about it
    assert [cases[f"case_{i}"].annotated for i in range(3)] == [None, (1,), None]
    assert cases["case_1"].annotates((1,)) and not cases["case_1"].annotates((1, 2)) and cases["case_0"].annotates((1, 2))


def test_a_change_of_what_is_annotated_rebuilds_the_cache(partial, cache_dir):
    root, say = partial
    statuses = []
    for organs in ({}, {}, {"case_1": ["first"]}, {"case_1": ["first"]}, {"case_1": ["first", "second"]}):
        say(**organs)
        statuses.append(prepare([root], cache_dir)[0].status)
    assert statuses == ["built", "fresh", "built", "fresh", "built"]


def test_a_card_may_say_what_is_annotated_by_the_names_of_both(partial, cache_dir):
    root, say = partial
    card = "dataset: Toy\ngroup: toys\nmodality: MR\norgans: {1: liver}\nannotated: {case_1: [%s]}\n"
    for name in ("liver", "first", "1"):
        (root / "card.yaml").write_text(card % name)
        cases = survey_dataset(root)[0].cases
        assert [case.annotated for case in cases] == [None, (1,), None]
    say(case_1=["first"])
    assert survey_dataset(root)[0].cases[1].annotated == (1,)
    say(case_1=["second"])
    assert "dataset.json and the card differ" in survey_dataset(root)[1][0].problem
    (root / "card.yaml").write_text((card % "first").replace("case_1", "case_9"))
    with pytest.raises(DataError, match="card.yaml.*'annotated' names 'case_9', which is not a case of dataset.json"):
        survey_dataset(root)


@pytest.mark.parametrize(
    ("organs", "message"),
    [
        (["frist"], "'annotated' names 'frist'; did you mean 'first'"),
        (["spleen"], "'annotated' names 'spleen'; known: first, second"),
        ([3], "'annotated' names 3; known: first, second"),
        ([True], "'annotated' names True"),
        ([None], "'annotated' names None"),
        ("first", "'annotated' is 'first', expected a list of organs such as ['first']"),
        ({"first": 1}, "expected a list of organs"),
        ([], "'annotated' is empty"),
        (None, "'annotated' is None, expected a list of organs"),
    ],
)
def test_a_wrong_word_about_what_is_annotated_is_refused(partial, cache_dir, organs, message):
    root, say = partial
    say(case_1=organs)
    with pytest.raises(BadCases, match=re.escape(message)) as caught:
        prepare([root], cache_dir)
    assert [row.case for row in caught.value.rows] == ["case_1"]


def test_voxels_of_an_organ_that_is_not_annotated_are_refused(partial, cache_dir):
    root, say = partial
    say(case_0=["first"])
    message = "labelsTr/case_0.nii.gz: found 9 voxels of 'second', which 'annotated' of this case does not name"
    with pytest.raises(BadCases, match=f"{message}.*Add it to 'annotated'"):
        prepare([root], cache_dir)
