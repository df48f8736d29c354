"""Scans with the same voxels are one patient, and an image that is its own label is a bad case."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.nifti import read_image, read_label
from metanas_med.tasks.episode import check_patients, draw_split
from metanas_med.tasks.organ import task_of


def copy_scan(root, source: int, target: int) -> None:
    """Save the scan of one case again as that of another: other bytes, another data type, other axes, the same voxels."""
    scan = nib.load(root / f"imagesTr/case_{source}.nii.gz")
    turned = nib.Nifti1Image(np.asarray(scan.dataobj).astype(np.float32)[::-1], scan.affine @ np.diag([-1, 1, 1, 1]))  # type: ignore[attr-defined]
    turned.affine[:3, 3] = (scan.shape[0] - 1, 0, 0)  # type: ignore[attr-defined]
    nib.save(turned, root / f"imagesTr/case_{target}.nii.gz")
    label = nib.load(root / f"labelsTr/case_{target}.nii.gz")
    moved = nib.Nifti1Image(np.asarray(label.dataobj)[::-1], turned.affine)  # type: ignore[attr-defined]
    nib.save(moved, root / f"labelsTr/case_{target}.nii.gz")


def test_scans_of_the_same_voxels_are_one_patient(make_msd, cache_dir):
    root = make_msd(num_cases=5)
    copy_scan(root, 0, 3)
    for _ in ("built", "fresh"):
        (row,) = prepare([root], cache_dir)
        assert "case_0, case_3 hold the same voxels: they count as one patient" in row.notes
        assert (row.cases, row.patients) == (5, 4)
    data = open_cache(cache_dir / "Toy.h5")
    assert [case.patient for case in data.cases] == ["case_0", "case_1", "case_2", "case_0", "case_4"]
    task = task_of(data.name, data.labels)
    for seed in range(12):
        support, query = draw_split(data, task, 2, 2, np.random.default_rng(seed))
        assert len({"case_0", "case_3"} & {*support, *query}) <= 1
        check_patients(data, support, query)


def test_duplicates_connect_patients_who_have_further_scans(make_msd, cache_dir):
    root = make_msd(num_cases=6)
    (root / "card.yaml").write_text(
        "dataset: Toy\ngroup: Toy\nmodality: MR\npatient: {case_0: p, case_1: p, case_2: q, case_3: q, case_4: r, case_5: s}\n"
    )
    shutil.copy(root / "imagesTr/case_3.nii.gz", root / "imagesTr/case_0.nii.gz")  # p and q are the same person
    shutil.copy(root / "imagesTr/case_4.nii.gz", root / "imagesTr/case_2.nii.gz")  # and so is r
    prepare([root], cache_dir)
    assert [case.patient for case in open_cache(cache_dir / "Toy.h5").cases] == ["p"] * 5 + ["s"]


def test_clean_data_keep_their_patients(make_msd, cache_dir):
    root = make_msd(num_cases=3)
    (root / "card.yaml").write_text(
        "dataset: Toy\ngroup: Toy\nmodality: MR\npatient: '(case)_[12]|case_0'\n".replace("|case_0", "")
    )
    (root / "card.yaml").write_text("dataset: Toy\ngroup: Toy\nmodality: MR\npatient: {case_0: z, case_1: a, case_2: a}\n")
    (row,) = prepare([root], cache_dir)
    assert row.patients == 2 and not any("same voxels" in note for note in row.notes)
    assert [case.patient for case in open_cache(cache_dir / "Toy.h5").cases] == ["z", "a", "a"]


def test_constant_scans_are_not_one_patient(make_msd, save_nifti, cache_dir):
    root = make_msd(num_cases=3)
    for number in range(2):
        save_nifti(root / f"imagesTr/case_{number}.nii.gz", np.zeros((10, 12, 8), np.int16))
    (row,) = prepare([root], cache_dir)
    assert row.patients == 3 and not any("same voxels" in note for note in row.notes)


def own_label(root, kind: str) -> None:
    """Make the image of case_1 its own label map in one of several ways."""
    image, label = root / "imagesTr/case_1.nii.gz", root / "labelsTr/case_1.nii.gz"
    values = read_label(label)[0]
    if kind == "same file":
        tree = json.loads((root / "dataset.json").read_text())
        tree["training"][1]["image"] = tree["training"][1]["label"]
        (root / "dataset.json").write_text(json.dumps(tree))
    elif kind == "link":
        image.unlink()
        image.symlink_to(label)
    elif kind == "copy":
        shutil.copy(label, image)
    elif kind == "float":
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), image)
    elif kind == "scaled":
        nib.save(nib.Nifti1Image((values * 1000.0 - 1024).astype(np.int16), np.eye(4)), image)
    elif kind == "mask":
        nib.save(nib.Nifti1Image(((values > 0) * 255).astype(np.uint8), np.eye(4)), image)
    elif kind == "another label map":
        nib.save(nib.Nifti1Image(np.roll(values, 3, 1), np.eye(4)), image)


@pytest.mark.parametrize("kind", ["same file", "link", "copy", "float", "scaled", "mask", "another label map"])
def test_an_image_that_is_a_label_map_is_a_bad_case(make_msd, cache_dir, kind):
    root = make_msd()
    own_label(root, kind)
    with pytest.raises(BadCases, match="label map") as caught:
        prepare([root], cache_dir)
    (row,) = caught.value.rows
    assert row.case == "case_1" and "image" in row.problem


def test_a_channel_that_is_the_label_map_is_a_bad_case(make_msd, save_nifti, cache_dir):
    root = make_msd(channels=2)
    label = read_label(root / "labelsTr/case_1.nii.gz")[0]
    image = np.moveaxis(read_image(root / "imagesTr/case_1.nii.gz")[0], 0, -1).astype(np.int16)
    image[..., 1] = label * 7
    save_nifti(root / "imagesTr/case_1.nii.gz", image)
    with pytest.raises(BadCases, match="case_1.nii.gz: channel 1 shows nothing but the label map"):
        prepare([root], cache_dir)


def test_few_values_alone_are_no_label_map(make_msd, save_nifti, cache_dir):
    """A scan of few values that do not follow the label, a constant channel, and a label without any organ are accepted."""
    root = make_msd(num_cases=4)
    coarse = np.random.default_rng(0).integers(-2, 3, (10, 12, 8)).astype(np.int16) * 300
    save_nifti(root / "imagesTr/case_1.nii.gz", coarse)
    save_nifti(root / "imagesTr/case_2.nii.gz", np.full((10, 12, 8), 7, np.int16))
    save_nifti(root / "labelsTr/case_3.nii.gz", np.zeros((10, 12, 8), np.uint8))
    (row,) = prepare([root], cache_dir)
    assert row.cases == 4


def test_real_data_sets_show_no_false_alarm(shared_data, cache_dir):
    rows = prepare([shared_data / name for name in ("Ext50_BrainPartsMR", "Ext28_MSLesion", "Ext17_SarcomaPET")], cache_dir)
    assert not any("same voxels" in note for row in rows for note in row.notes) and not any(row.bad for row in rows)
