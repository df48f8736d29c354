"""Caches with cases set aside: known without checking all scans again, and never mistaken for complete ones."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest

from metanas_med.data import cache as module
from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache, open_caches

from .broken import break_case


@pytest.fixture
def checked(monkeypatch):
    """The names of the cases that are checked from now on."""
    names, check = [], module.check_case
    monkeypatch.setattr(module, "check_case", lambda case, *given: names.append(case.name) or check(case, *given))
    return names


@pytest.mark.parametrize("kind", ["truncated", "unknown label", "missing", "NaN"])
def test_a_cache_with_bad_cases_is_fresh_until_something_changes(make_msd, cache_dir, checked, kind):
    root = make_msd(num_cases=4)
    whole = {path: path.read_bytes() for path in root.glob("*Tr/case_2.nii.gz")}
    break_case(root, 2, kind)
    rows = [prepare([root], cache_dir, skip_bad=True)[0] for _ in range(2)]
    assert [row.status for row in rows] == ["built", "fresh"] and [row.cases for row in rows] == [3, 3]
    assert rows[0].bad == rows[1].bad and [bad.case for bad in rows[1].bad] == ["case_2"]
    assert len(checked) == (3 if kind == "missing" else 4)
    # a strict prepare refuses, without a new check
    with pytest.raises(BadCases) as caught:
        prepare([root], cache_dir)
    assert caught.value.rows == rows[0].bad and len(checked) <= 4
    # another bad case, a changed bad case and a mended one are noticed
    break_case(root, 0, "NaN")
    assert [bad.case for bad in prepare([root], cache_dir, skip_bad=True)[0].bad if bad.case] in (
        ["case_0", "case_2"],
        ["case_2", "case_0"],
    )
    for path, content in whole.items():
        path.write_bytes(content)
    (row,) = prepare([root], cache_dir, skip_bad=True)
    assert row.status == "built" and [bad.case for bad in row.bad] == ["case_0"] and row.cases == 3


def test_a_bad_file_that_is_only_touched_is_checked_again(make_msd, cache_dir, checked):
    root = make_msd()
    break_case(root, 1, "NaN")
    prepare([root], cache_dir, skip_bad=True)
    os.utime(root / "imagesTr/case_1.nii.gz")
    assert prepare([root], cache_dir, skip_bad=True)[0].status == "built" and len(checked) == 6


def test_a_scan_in_other_units_is_known_too(make_msd, save_nifti, cache_dir, checked):
    root = make_msd(num_cases=4)
    for kind in ("imagesTr", "labelsTr"):
        array = np.zeros((10, 12, 8), np.uint8) if kind == "labelsTr" else np.arange(960, dtype=np.int16).reshape(10, 12, 8)
        save_nifti(root / kind / "case_1.nii.gz", array, np.diag([0.01, 0.01, 0.01, 1.0]))
    rows = [prepare([root], cache_dir, skip_bad=True)[0] for _ in range(2)]
    assert [row.status for row in rows] == ["built", "fresh"] and [bad.case for bad in rows[1].bad] == ["case_1"]


def test_an_organ_that_no_case_holds_does_not_rebuild(make_msd, edit_json, cache_dir, checked):
    root = make_msd()
    edit_json(root, labels={"0": "background", "1": "first", "2": "second", "3": "ghost"})
    assert [prepare([root], cache_dir, skip_bad=True)[0].status for _ in range(2)] == ["built", "fresh"]
    assert len(checked) == 3


def test_caches_opened_by_folder_tell_what_was_set_aside(make_msd, cache_dir, caplog):
    root, good = make_msd(), make_msd("Good")
    break_case(root, 1, "NaN")
    prepare([root, good], cache_dir, skip_bad=True)
    with caplog.at_level(logging.WARNING):
        open_caches(cache_dir)
    (record,) = caplog.records
    assert record.getMessage().startswith("Toy: 1 case(s) are not in the cache: case_1 (") and "NaN" in record.getMessage()
    assert [bad.case for bad in open_cache(cache_dir / "Toy.h5").set_aside] == ["case_1"]
