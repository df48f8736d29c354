"""Scans without labels: three kinds of sources, what is set aside, and a plan that does not depend on labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.unlabelled import MOST_VIEWS, misfit, plan_without_labels, unlabelled_scans
from metanas_med.errors import DataError

TURNED = np.array([[0, 0, -2.0, 5], [-1, 0, 0, 3], [0, 3.0, 0, 0], [0, 0, 0, 1]])


def test_a_folder_in_msd_layout_a_plain_one_and_a_cache_hold_the_same_scans(make_msd, tmp_path: Path, cache_dir: Path) -> None:
    root = make_msd("Toy", 3, channels=2, affine=TURNED)
    prepare([root], cache_dir)
    plain = tmp_path / "Plain"
    shutil.copytree(root / "imagesTr", plain)
    places = [unlabelled_scans(p) for p in (root, plain, cache_dir / "Toy.h5", open_cache(cache_dir / "Toy.h5"))]
    for scans in zip(*(p.scans for p in places), strict=True):
        for scan in scans:
            assert scan.shape == (8, 10, 12) and scan.spacing == pytest.approx((2, 1, 3)) and scan.num_channels == 2
            assert (scan.name, scan.patient) == (scans[0].name, scans[0].patient)
            assert scan.read().shape == (2, 8, 10, 12) and (scan.read() == scans[0].read()).all()
    assert [s.name for s in places[0].scans] == ["case_0", "case_1", "case_2"]
    assert [p.modality for p in places] == [("MR", "MR"), ("unknown", "unknown"), ("MR", "MR"), ("MR", "MR")]
    assert [p.name for p in places] == ["Toy", "Plain", "Toy", "Toy"]
    assert unlabelled_scans(plain, "CT").modality == ("CT", "CT")


def test_labels_are_not_needed(make_msd, edit_json: Callable[..., None]) -> None:
    root = make_msd("Toy")
    before = unlabelled_scans(root)
    shutil.rmtree(root / "labelsTr")
    edit_json(root, labels=None, training=[f"./imagesTr/case_{n}.nii.gz" for n in range(3)])
    after = unlabelled_scans(root)
    assert [s.name for s in after.scans] == [s.name for s in before.scans] and after.modality == before.modality
    (root / "dataset.json").unlink()
    (root / "imagesTr").rename(root / "imagesTs")
    assert len(unlabelled_scans(root).scans) == 3 and unlabelled_scans(root).modality == ("unknown",)


@pytest.mark.parametrize("listed", [True, False])
def test_the_scans_are_those_that_search_and_adapt_use(
    make_msd, save_nifti, edit_json: Callable[..., None], tmp_path: Path, listed: bool
) -> None:
    """All existing listed scans of both kinds; without a list all files except hidden ones and second files of a name."""
    root = make_msd("Toy")
    (root / "imagesTs").mkdir()
    for name in ("imagesTs/more.nii.gz", "imagesTr/.hidden.nii.gz", "imagesTr/._case_0.nii.gz", "imagesTs/case_0.nii.gz"):
        shutil.copy(root / "imagesTr/case_0.nii.gz", root / name)
    save_nifti(root / "imagesTs/more.nii.gz", np.arange(960, dtype=np.int16).reshape(10, 12, 8))
    edit_json(root, test=["./imagesTs/more.nii.gz", "./imagesTs/absent.nii.gz"])
    if not listed:
        shutil.rmtree(root / "labelsTr")
        (root / "dataset.json").unlink()
    found = unlabelled_scans(root)
    assert [s.name for s in found.scans] == ["case_0", "case_1", "case_2", "more"]
    prepare([root], tmp_path / "cache", skip_bad=True, labels=False)
    assert [s.name for s in unlabelled_scans(tmp_path / "cache/Toy.h5").scans] == [s.name for s in found.scans]
    assert ["two files of this name" in s.problem for s in found.set_aside] == ([] if listed else [True])


def test_a_label_map_among_the_scans_is_not_read_as_a_scan(make_msd) -> None:
    root = make_msd("Toy")
    shutil.move(root / "labelsTr/case_1.nii.gz", root / "imagesTr/case_1_seg.nii.gz")
    (root / "dataset.json").unlink()
    with pytest.raises(DataError, match="labelsTr: found labels in a folder without dataset.json"):
        unlabelled_scans(root)
    shutil.rmtree(root / "labelsTr")
    scan = unlabelled_scans(root).scans[2]
    with pytest.raises(DataError, match="case_1_seg.nii.gz: looks like a label map"):
        scan.read()


def test_one_scan_per_patient_if_a_card_names_them(make_msd) -> None:
    root = make_msd("Toy", 4)
    (root / "card.yaml").write_text(
        "dataset: Toy\ngroup: toys\nmodality: CT\nrelated: [Other]\n"
        "patient: {case_0: anna, case_1: ben, case_2: anna, case_3: ben}\n"
    )
    found = unlabelled_scans(root)
    assert [s.name for s in found.scans] == ["case_0", "case_1"] and found.patients_known
    assert {(s.case, s.problem) for s in found.set_aside} == {
        ("case_2", "same patient as case_0"),
        ("case_3", "same patient as case_1"),
    }
    assert (found.group, found.related, found.modality) == ("toys", ("Other",), ("CT",))


def test_unusable_scans_are_set_aside(make_msd, save_nifti) -> None:
    root = make_msd("Toy", 4)
    (root / "imagesTr/case_1.nii.gz").write_bytes(b"not a scan")
    save_nifti(root / "imagesTr/case_2.nii.gz", np.zeros((10, 12, 8, 2), np.int16))
    (root / "imagesTr/._case_0.nii.gz").write_bytes(b"hidden")
    found = unlabelled_scans(root)
    assert [s.name for s in found.scans] == ["case_0", "case_3"]
    reasons = {s.case: s.problem for s in found.set_aside}
    assert set(reasons) == {"case_1", "case_2"}
    assert "case_1.nii.gz" in reasons["case_1"] and "found 2 channel(s), dataset.json's modality has 1" in reasons["case_2"]


def harm_json(text: str) -> Callable[[Path], Any]:
    return lambda root: (root / "dataset.json").write_text(text)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "Toy: no such folder; expected"),
        (lambda root: shutil.rmtree(root / "imagesTr"), r"Toy: found no scan that can be used, 3 set aside \(.*no such file"),
        (harm_json("{"), r"dataset\.json: malformed, not JSON"),
        (harm_json("[]"), r"dataset\.json: malformed, found a list"),
        (harm_json("{}"), r"dataset\.json: the key 'modality' is missing"),
        (harm_json(json.dumps({"modality": {"first": "CT"}})), r"dataset\.json: 'modality' has keys \['first'\]"),
        (harm_json(json.dumps({"modality": {"0": "CT"}})), "Toy: found no scan; expected"),
        (lambda root: [p.write_bytes(b"no") for p in (root / "imagesTr").iterdir()], "no scan that can be used, 3 set aside"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(make_msd, harm: Callable[[Path], Any], message: str) -> None:
    root = make_msd("Toy")
    harm(root)
    with pytest.raises(DataError, match=message):
        unlabelled_scans(root)


def test_a_given_modality_replaces_the_declared_ones(make_msd, edit_json: Callable[..., None]) -> None:
    root = make_msd("Toy")
    edit_json(root, modality={"0": "CT", "1": "PET"})
    with pytest.raises(DataError, match=r"3 set aside \(.*found 1 channel\(s\), dataset\.json's modality has 2"):
        unlabelled_scans(root)
    assert unlabelled_scans(root, "CT").modality == ("CT",)
    edit_json(root, modality=None)
    assert unlabelled_scans(root, "CT").modality == ("CT",)


def test_a_whole_scan_fits_in_the_view(make_msd) -> None:
    found = unlabelled_scans(make_msd("Toy", 5, shape=(40, 50, 12), affine=np.diag([1, 1, 4.0, 1])))
    wide = plan_without_labels(found.scans, found.modality, 100_000, 3)
    assert wide.view == (40, 50, 12) and wide.spacing == pytest.approx((1, 1, 4))
    narrow = plan_without_labels(found.scans, found.modality, 3000, 3)
    size = narrow.shape(found.scans[0].shape, found.scans[0].spacing)
    assert np.prod(size) == pytest.approx(3000, rel=0.1) and np.allclose(size, narrow.view, atol=1)
    assert narrow.spacing[0] == narrow.spacing[1] > 1.5


def test_the_range_of_ct_comes_from_the_content_box(make_msd, save_nifti) -> None:
    root = make_msd("Toy", 3)
    random = np.random.default_rng(0)
    inside = []
    for number in range(3):
        image = np.full((20, 20, 20), -1000, dtype=np.int16)
        image[4:14, 4:14, 4:14] = random.integers(0, 300, (10, 10, 10))
        inside.append(image[4:14, 4:14, 4:14].ravel())
        save_nifti(root / f"imagesTr/case_{number}.nii.gz", image)
    found = unlabelled_scans(root, "CT")
    (intensity,) = plan_without_labels(found.scans, found.modality, 8000, 3).intensities
    values = np.concatenate(inside)
    low, high = np.percentile(values, [0.5, 99.5])
    assert intensity.kind == "ct" and (intensity.low, intensity.high) == pytest.approx((low, high))
    assert intensity.center == pytest.approx(values.clip(low, high).mean())
    (other,) = plan_without_labels(found.scans, ("MR",), 8000, 3).intensities
    assert other.kind == "robust"
    for path in (root / "imagesTr").iterdir():  # whole headers, broken voxels
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged"):
        plan_without_labels(unlabelled_scans(root, "CT").scans, ("CT",), 8000, 3)


def test_scans_that_are_too_small_or_too_large(make_msd) -> None:
    scan = unlabelled_scans(make_msd("Toy", 3, shape=(32, 32, 16))).scans[0]
    plan = plan_without_labels([scan] * 5, ("MR",), 32 * 32 * 16, 3)
    assert plan.strides == ((2, 2, 2), (2, 2, 2)) and misfit(scan, plan, 32 * 32 * 16) == ""
    assert misfit(replace(scan, shape=(8, 8, 8)), plan, 32 * 32 * 16) == ""
    small = misfit(replace(scan, shape=(32, 32, 7)), plan, 32 * 32 * 16)
    assert small == "too small compared with the others: 32 x 32 x 7 voxels, 32 x 32 x 7 mm"
    assert "too large" in misfit(replace(scan, shape=(32, 32 * MOST_VIEWS, 17)), plan, 32 * 32 * 16)
    assert misfit(replace(scan, shape=(32, 32 * MOST_VIEWS, 16)), plan, 32 * 32 * 16) == ""
    tiny = plan_without_labels([replace(scan, shape=(2, 2, 1))] * 3, ("MR",), 1000, 3)
    assert "too small" in misfit(replace(scan, shape=(2, 2, 1)), tiny, 1000)
