from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest

from metanas_med.data import cached
from metanas_med.data.cache import CachedDataset, open_caches, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.case_check import content_box
from metanas_med.data.nifti import read_image, read_label, to_canonical
from metanas_med.errors import DataError

FLIPPED = np.array([[0, -1.5, 0, 9], [0, 0, 3.0, -5], [0.8, 0, 0, 2], [0, 0, 0, 1]])


def test_the_cache_holds_the_scan_in_canonical_axes(make_msd, cache_dir):
    root = make_msd("Toy", channels=2, affine=FLIPPED)
    (row,) = prepare([root], cache_dir)
    assert (row.name, row.status, row.cases, row.patients, row.patients_known) == ("Toy", "built", 3, 3, False)
    assert row.shape_range == ((12, 8, 10), (12, 8, 10)) and row.spacing_range[0] == (1.5, 3.0, 0.8)
    assert "each file counts as a patient" in row.notes
    cache = open_caches(cache_dir)["Toy"]
    assert cache.labels == {1: "first", 2: "second"} and cache.modality == ("MR", "MR") and cache.group == "Toy"
    for case in cache.cases:
        image, affine, _ = to_canonical(*read_image(root / "imagesTr" / f"{case.name}.nii.gz"))
        label, _, _ = to_canonical(*read_label(root / "labelsTr" / f"{case.name}.nii.gz"))
        np.testing.assert_array_equal(cache.image(case.name), image)
        assert cache.image(case.name).dtype == np.float32
        np.testing.assert_array_equal(cache.label(case.name), label)
        np.testing.assert_array_equal(case.affine, affine)
        assert case.label_voxels == {1: 9, 2: 9} and case.num_channels == 2 and case.shape == label.shape
        np.testing.assert_allclose(case.spacing, (1.5, 3, 0.8))


def test_a_region_equals_the_part_of_the_whole(make_msd, cache_dir):
    prepare([make_msd("Toy", num_cases=1, shape=(40, 35, 50), channels=2)], cache_dir)
    cache = open_cache(cache_dir / "Toy.h5")
    slices = (slice(3, 36), slice(30, 35), slice(0, 49))
    np.testing.assert_array_equal(cache.image_region("case_0", slices), cache.image("case_0")[(slice(None), *slices)])
    np.testing.assert_array_equal(cache.label_region("case_0", slices), cache.label("case_0")[slices])
    with h5py.File(cache.path, locking=False) as file:
        assert file["images/case_0"].chunks == (1, 32, 32, 32)  # type: ignore[attr-defined]
        assert file["images/case_0"].dtype == np.int16  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="no case 'case_9'"):
        cache.image("case_9")


def test_the_cached_image_does_not_depend_on_labels(make_msd, cache_dir, save_nifti):
    root = make_msd()
    prepare([root], cache_dir)
    before = open_cache(cache_dir / "Toy.h5")
    images = [before.image(case.name) for case in before.cases]
    label = np.zeros((10, 12, 8), np.uint8)
    label[8, 8, :2], label[9, 9, 3:] = 1, 2
    for case in before.cases:
        save_nifti(root / "labelsTr" / f"{case.name}.nii.gz", label)
    assert prepare([root], cache_dir)[0].status == "built"
    after = open_cache(cache_dir / "Toy.h5")
    for old, new, image in zip(before.cases, after.cases, images, strict=True):
        assert old.label_voxels != new.label_voxels and old.content_box == new.content_box and old.shape == new.shape
        np.testing.assert_array_equal(after.image(new.name), image)


def test_the_content_box_excludes_the_border_value():
    image = np.full((2, 9, 8, 7), -5)
    image[0, 2:5, 3, 1] = 7
    image[1, 4, 6, 2:4] = 1
    assert content_box(image) == [[2, 5], [3, 7], [1, 4]]
    image[0, 0, 0, 0] = 3  # one odd voxel at the border is content; the most frequent value stays background
    assert content_box(image) == [[0, 5], [0, 7], [0, 4]]
    assert content_box(np.zeros((1, 3, 4, 5))) == [[0, 3], [0, 4], [0, 5]]


def test_a_cache_is_fresh_until_something_changes(make_msd, edit_json, cache_dir, save_nifti):
    root = make_msd()
    path = cache_dir / "Toy.h5"
    statuses = [prepare([root], cache_dir)[0].status]
    first = path.stat().st_mtime_ns

    def again() -> str:
        return prepare([root], cache_dir)[0].status

    assert [*statuses, again()] == ["built", "fresh"]
    os.utime(root / "imagesTr/case_1.nii.gz")  # another time, the same bytes
    assert again() == "fresh" and path.stat().st_mtime_ns == first
    old = open_cache(path)
    save_nifti(root / "imagesTr/case_1.nii.gz", np.arange(960, dtype=np.int16).reshape(10, 12, 8))
    assert again() == "built" and again() == "fresh"
    hashes = [[case.content_hash for case in cache.cases] for cache in (old, open_cache(path))]
    assert [a == b for a, b in zip(*hashes, strict=True)] == [True, False, True]
    edit_json(root, labels={"0": "background", "1": "renamed", "2": "second"})
    assert again() == "built" and open_cache(path).labels[1] == "renamed"
    (root / "card.yaml").write_text("dataset: Toy\ngroup: toys\nmodality: CT\npatient: '(case)_.*'\n")
    assert again() == "built" and again() == "fresh"
    cache = open_cache(path)
    assert (cache.group, cache.modality, cache.patients_known) == ("toys", ("CT",), True)
    assert {case.patient for case in cache.cases} == {"case"}
    training = json.loads((root / "dataset.json").read_text())["training"]
    edit_json(root, training=training[:2])
    assert again() == "built" and len(open_cache(path).cases) == 2


def test_a_moved_folder_of_the_same_content_is_fresh(make_msd, cache_dir, tmp_path):
    root = make_msd()
    prepare([root], cache_dir)
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "Toy")
    assert prepare([moved], cache_dir)[0].status == "fresh"


def test_missing_damaged_and_incompatible_caches_are_refused(make_msd, cache_dir, monkeypatch):
    with pytest.raises(DataError, match="metanas-med prepare"):
        open_caches(cache_dir)
    with pytest.raises(DataError, match="metanas-med prepare"):
        open_cache(cache_dir / "Toy.h5")
    root = make_msd()
    prepare([root], cache_dir)
    path = cache_dir / "Toy.h5"
    content = path.read_bytes()
    for broken in (b"", b"hello", content[: len(content) // 2], content[:-100]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="damaged cache file"):
            open_cache(path)
    assert prepare([root], cache_dir)[0].status == "built"
    monkeypatch.setattr(cached, "FORMAT", 3)
    with pytest.raises(DataError, match="found cache version 2, expected 3"):
        open_cache(path)


def test_a_cache_that_was_rebuilt_in_the_meantime_is_refused(make_msd, cache_dir, edit_json):
    """Its labels may mean other organs now, so the metadata of the old file must not be used with the new one."""
    root = make_msd()
    prepare([root], cache_dir)
    opened = open_cache(cache_dir / "Toy.h5")
    also = pickle.loads(pickle.dumps(opened))
    edit_json(root, labels={"0": "background", "1": "second", "2": "first"})
    prepare([root], cache_dir)
    for cache in (opened, also):
        with pytest.raises(DataError, match=r"Toy\.h5 was rebuilt while it was in use"):
            cache.label("case_0")
    assert open_cache(cache_dir / "Toy.h5").label("case_0").any()


def test_a_box_of_one_channel_equals_that_part_of_the_channel(make_msd, cache_dir):
    prepare([make_msd()], cache_dir)
    cache = open_cache(cache_dir / "Toy.h5")
    lazy = cache.lazy_image("case_0")
    box = (slice(2, 5), slice(0, 7), slice(3, 4))
    np.testing.assert_array_equal(lazy[(0, *box)], lazy[0][box])


def test_the_content_hash_depends_only_on_voxels(make_msd, cache_dir, save_nifti):
    """The file, its data type and its labels have no influence."""
    root = make_msd()
    prepare([root], cache_dir)
    first = {c.name: c.content_hash for c in open_cache(cache_dir / "Toy.h5").cases}
    assert len(set(first.values())) == len(first)
    path = root / "imagesTr/case_0.nii.gz"
    scan: Any = nib.load(path)  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj).astype(np.float32), scan.affine), path)  # type: ignore[attr-defined]
    label: Any = nib.load(root / "labelsTr/case_1.nii.gz")  # type: ignore[attr-defined]
    changed = np.asarray(label.dataobj).copy()
    changed[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(changed, label.affine), root / "labelsTr/case_1.nii.gz")  # type: ignore[attr-defined]
    assert prepare([root], cache_dir)[0].status == "built"
    assert {c.name: c.content_hash for c in open_cache(cache_dir / "Toy.h5").cases} == first


def test_a_flipped_bit_in_the_voxels_is_detected(make_msd, cache_dir):
    prepare([make_msd()], cache_dir)
    path = cache_dir / "Toy.h5"
    with h5py.File(path) as file:
        chunk = file["images/case_1"].id.get_chunk_info(0)  # type: ignore[attr-defined]
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    cache = open_cache(path)
    cache.image("case_0")
    with pytest.raises(DataError, match="damaged cache file"):
        cache.image("case_1")


def _sum_in_child(cache: CachedDataset, connection) -> None:
    parent = cache._opened
    connection.send((float(cache.image("case_1").sum()), cache._opened is not parent))
    connection.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_cache_is_read_after_a_fork_and_after_pickling(make_msd, cache_dir):
    prepare([make_msd()], cache_dir)
    cache = open_cache(cache_dir / "Toy.h5")
    expected = float(cache.image("case_1").sum())  # opens the file in this process first
    mine, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_sum_in_child, args=(cache, theirs))
    child.start()
    assert mine.poll(20) and mine.recv() == (expected, True)
    child.join()
    assert float(cache.image("case_1").sum()) == expected
    twin = pickle.loads(pickle.dumps(cache))
    cache.close()
    assert float(twin.image("case_1").sum()) == expected == float(cache.image("case_1").sum())


def test_progress_is_reported(make_msd, cache_dir):
    calls = []
    prepare([make_msd()], cache_dir, progress=lambda *call: calls.append(call))
    assert calls == [("Toy", 1, 3), ("Toy", 2, 3), ("Toy", 3, 3)]


def test_real_data_sets_are_prepared(shared_data, cache_dir):
    names = ["Ext23_SpinalCordMR", "Ext28_MSLesion", "Task09_Spleen"]
    rows = {row.name: row for row in prepare([shared_data / name for name in names], cache_dir)}
    assert [rows[name].patients for name in names] == [1, 3, 2]
    assert open_caches(cache_dir)["Ext28_MSLesion"].cases[0].num_channels == 4
