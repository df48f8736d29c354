from __future__ import annotations

import errno
import os
import shutil

import h5py
import numpy as np
import pytest

from metanas_med.data import set_check
from metanas_med.data.cache import BadCases, open_caches, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.nifti import read_image
from metanas_med.errors import DataError, StorageError

from .broken import KINDS, break_case


@pytest.mark.parametrize("kind", KINDS)
def test_each_bad_case_is_refused_and_nothing_is_written(make_msd, cache_dir, kind):
    good, root = make_msd("Good", seed=1), make_msd("Toy")
    break_case(root, 1, kind)
    with pytest.raises(BadCases, match=KINDS[kind]) as caught:
        prepare([good, root], cache_dir)
    (row,) = caught.value.rows
    assert (row.dataset, row.case) == ("Toy", "case_1")
    assert len(str(caught.value).splitlines()) <= 2
    assert not cache_dir.exists() or not any(cache_dir.iterdir())
    rows = prepare([good, root], cache_dir, skip_bad=True)
    assert [row.cases for row in rows] == [3, 2] and [len(row.bad) for row in rows] == [0, 1]
    assert [case.name for case in open_cache(cache_dir / "Toy.h5").cases] == ["case_0", "case_2"]


def test_all_bad_cases_of_all_data_sets_are_listed(make_msd, cache_dir, tmp_path):
    roots = [make_msd("A", num_cases=5), tmp_path / "absent", make_msd("B", num_cases=4)]
    for number, kind in enumerate(["shape", "NaN", "missing"]):
        break_case(roots[0], number, kind)
    break_case(roots[2], 3, "bit flip")
    with pytest.raises(BadCases, match="5 problem") as caught:
        prepare(roots, cache_dir, workers=3)
    found = sorted((row.dataset, row.case) for row in caught.value.rows)
    assert found == [("A", "case_0"), ("A", "case_1"), ("A", "case_2"), ("B", "case_3"), ("absent", "")]


def test_a_failed_prepare_keeps_the_older_cache(make_msd, cache_dir):
    root = make_msd()
    prepare([root], cache_dir)
    content = (cache_dir / "Toy.h5").read_bytes()
    break_case(root, 0, "truncated")
    with pytest.raises(BadCases):
        prepare([root], cache_dir)
    assert (cache_dir / "Toy.h5").read_bytes() == content and len(list(cache_dir.iterdir())) == 1


def test_cases_set_aside_are_reported_again_until_they_are_fixed(make_msd, cache_dir):
    root = make_msd()
    whole = (root / "imagesTr/case_0.nii.gz").read_bytes()
    break_case(root, 0, "truncated")
    prepare([root], cache_dir, skip_bad=True)
    with pytest.raises(BadCases):
        prepare([root], cache_dir)
    (root / "imagesTr/case_0.nii.gz").write_bytes(whole)
    (row,) = prepare([root], cache_dir)
    assert (row.status, row.cases, row.bad) == ("built", 3, ())


def test_an_empty_organ_is_refused_and_keeps_its_name_with_skip_bad(make_msd, edit_json, cache_dir):
    """Scans without a lesion can test a model of lesions."""
    root = make_msd()
    edit_json(root, labels={"0": "background", "1": "first", "2": "second", "3": "ghost"})
    with pytest.raises(BadCases, match="empty organ 'ghost'.*label 3.*accept it with 'metanas-med prepare --skip-bad'") as caught:
        prepare([root], cache_dir)
    assert [(row.dataset, row.case) for row in caught.value.rows] == [("Toy", "")]
    (row,) = prepare([root], cache_dir, skip_bad=True)
    assert row.cases == 3 and row.labels[3] == "ghost"
    assert open_cache(cache_dir / "Toy.h5").labels == {1: "first", 2: "second", 3: "ghost"}


def test_a_label_value_missing_from_dataset_json_is_refused(make_msd, edit_json, cache_dir):
    root = make_msd()
    edit_json(root, labels={"0": "background", "1": "first", "3": "second"})  # a typing error: it is 2
    with pytest.raises(BadCases, match=r"found unknown label values \[2\], expected 0 or \[1, 3\]"):
        prepare([root], cache_dir)


@pytest.mark.parametrize("factor", [1e-3, 0.1, 10.0, 1e3])
def test_a_header_in_other_units_is_refused_and_can_be_set_aside(make_msd, cache_dir, save_nifti, factor):
    """Metres, centimetres or micrometres among scans in millimetres are refused; a spacing four times as coarse is accepted."""
    root = make_msd(num_cases=4)
    for number, scale in ((1, factor), (2, 4.0)):
        for kind in ("imagesTr", "labelsTr"):
            path = root / kind / f"case_{number}.nii.gz"
            save_nifti(path, read_image(path)[0][0].astype(np.int16), np.diag([scale, scale, scale, 1.0]))
    with pytest.raises(
        BadCases, match=r"case_1: its voxels are .* mm; those of most cases are about 1 x 1 x 1 mm. .* in other units"
    ):
        prepare([root], cache_dir)
    prepare([root], cache_dir, skip_bad=True)
    data = open_cache(cache_dir / "Toy.h5")
    assert [case.name for case in data.cases] == ["case_0", "case_2", "case_3"]
    with h5py.File(cache_dir / "Toy.h5") as file:
        names: list[str] = []
        file.visit(names.append)
        assert "images/case_0" in names and not [name for name in names if "case_1" in name]


def test_a_cache_written_without_the_check_of_units_is_not_fresh(make_msd, cache_dir, save_nifti, monkeypatch):
    root = make_msd()
    for kind in ("imagesTr", "labelsTr"):
        path = root / kind / "case_1.nii.gz"
        save_nifti(path, read_image(path)[0][0].astype(np.int16), np.diag([1e3, 1e3, 1e3, 1.0]))
    with monkeypatch.context() as before:
        before.setattr(set_check, "in_other_units", lambda *_: "")
        assert prepare([root], cache_dir)[0].status == "built"
    with pytest.raises(BadCases, match="case_1: .* in other units"):
        prepare([root], cache_dir)
    (row,) = prepare([root], cache_dir, skip_bad=True)
    assert (row.status, row.cases, len(row.bad)) == ("built", 2, 1)


def test_units_are_not_checked_for_two_scans(make_msd, cache_dir, save_nifti):
    root = make_msd(num_cases=2)
    for kind in ("imagesTr", "labelsTr"):
        path = root / kind / "case_1.nii.gz"
        save_nifti(path, read_image(path)[0][0].astype(np.int16), np.diag([1e5, 1e5, 1e5, 1.0]))
    assert prepare([root], cache_dir)[0].cases == 2


def test_a_case_without_any_organ_is_allowed_and_noted(make_msd, cache_dir, save_nifti):
    root = make_msd()
    save_nifti(root / "labelsTr/case_1.nii.gz", np.zeros((10, 12, 8), np.uint8))
    (row,) = prepare([root], cache_dir)
    assert row.cases == 3 and any("without any organ: case_1" in note for note in row.notes)


def test_a_constant_image_is_allowed_and_noted(make_msd, cache_dir, save_nifti):
    root, good = make_msd(channels=2), make_msd("Good")
    image = np.random.default_rng(0).integers(0, 9, (10, 12, 8, 2)).astype(np.int16)
    image[..., 1] = -7
    save_nifti(root / "imagesTr/case_1.nii.gz", image)
    for _ in ("built", "fresh"):
        row, fine = prepare([root, good], cache_dir)
        assert row.cases == 3 and any("1 case(s) with a constant image or channel: case_1;" in note for note in row.notes)
        assert not any("constant image" in note for note in fine.notes)


def test_a_data_set_without_a_usable_case_leaves_no_file(make_msd, cache_dir):
    roots = [make_msd("Bad", num_cases=2), make_msd("Good")]
    for number in range(2):
        break_case(roots[0], number, "NaN")
    rows = prepare(roots, cache_dir, skip_bad=True)
    assert [(row.status, row.cases) for row in rows] == [("set aside", 0), ("built", 3)]
    assert [path.name for path in cache_dir.iterdir()] == ["Good.h5"]


def test_two_data_sets_of_the_same_name_are_refused(make_msd, cache_dir, tmp_path):
    root = make_msd()
    twin = shutil.copytree(root, tmp_path / "twin" / "Toy")
    with pytest.raises(BadCases, match="another data set has the same name"):
        prepare([root, twin], cache_dir)


def test_a_folder_that_is_given_twice_is_prepared_once(make_msd, cache_dir, tmp_path, monkeypatch):
    root = make_msd()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "Toy").symlink_to(root)
    monkeypatch.chdir(root.parent)
    (row,) = prepare([root, f"{root}/", "Toy", tmp_path / "link" / "Toy"], cache_dir)
    assert (row.name, row.status, row.cases, row.bad) == ("Toy", "built", 3, ())
    # under another name it is another data set, because the name selects its card and its cache file
    (tmp_path / "Other").symlink_to(root)
    assert [row.name for row in prepare([root, tmp_path / "Other", root], cache_dir)] == ["Toy", "Other"]


def test_a_full_disk_is_reported_and_no_file_remains(make_msd, cache_dir, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    good, root = make_msd("Good", shape=(10, 12, 9)), make_msd("Toy")
    prepare([good], cache_dir)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="Toy.h5: No space left"):
        prepare([good, root], cache_dir)
    assert [path.name for path in cache_dir.iterdir()] == ["Good.h5"]


def test_a_full_disk_is_reported_where_the_system_cannot_reserve_space(make_msd, cache_dir, monkeypatch):
    root = make_msd("Toy")
    monkeypatch.delattr(os, "posix_fallocate")
    assert prepare([root], cache_dir)[0].status == "built"
    usage = shutil.disk_usage(cache_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match="Second.h5: No space left"):
        prepare([make_msd("Second")], cache_dir)
    assert [path.name for path in cache_dir.iterdir()] == ["Toy.h5"]


def test_a_data_set_of_the_same_name_elsewhere_does_not_replace_the_cache(make_msd, cache_dir, tmp_path):
    root = make_msd()
    prepare([root], cache_dir)
    before = (cache_dir / "Toy.h5").read_bytes()
    twin = shutil.copytree(root, tmp_path / "twin" / "Toy")
    break_case(twin, 0, "NaN")  # other files under the same name
    with pytest.raises(DataError, match="already holds a data set of the same name, from"):
        prepare([twin], cache_dir, skip_bad=True)
    assert (cache_dir / "Toy.h5").read_bytes() == before and len(list(cache_dir.iterdir())) == 1
    shutil.rmtree(root)  # a data set that has moved is prepared again
    assert prepare([twin], cache_dir, skip_bad=True)[0].status == "built"


def test_files_among_data_set_folders_are_passed_over(make_msd, cache_dir, caplog):
    roots = [make_msd("A"), make_msd("B")]
    readme = roots[0].parent / "README.md"
    readme.write_text("notes")
    for labels in (True, False):
        caplog.clear()
        rows = prepare(sorted(roots[0].parent.iterdir()), cache_dir / str(labels), labels=labels)
        assert [row.name for row in rows] == ["A", "B"] and not any(row.bad for row in rows)
        assert f"passed over 1 file(s), expected folders: {readme}" in caplog.text
        with pytest.raises(BadCases, match=r"README\.md: this is a file; expected a folder"):  # alone, it is a mistake
            prepare([readme], cache_dir, labels=labels)
        with pytest.raises(BadCases, match=r"absent: no such folder; expected a folder"):
            prepare([*roots, roots[0].parent / "absent"], cache_dir, labels=labels)


@pytest.mark.parametrize("labels", [True, False])
def test_the_order_of_data_sets_changes_nothing(make_msd, tmp_path, labels):
    roots = [make_msd("A"), make_msd("B", channels=2, seed=1), make_msd("C", seed=2)]
    found = []
    for number, order in enumerate([roots, roots[::-1], [roots[1], roots[0], roots[2], roots[1]]]):
        rows = prepare(order, tmp_path / f"cache{number}", labels=labels)
        caches = open_caches(tmp_path / f"cache{number}")
        metas = {name: {**cache.meta, "cases": cache.meta["cases"]} for name, cache in caches.items()}
        found.append((list(caches), metas, {(row.name, row.cases, row.notes) for row in rows}))
    assert found[0] == found[1] == found[2]
