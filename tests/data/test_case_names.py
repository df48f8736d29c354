"""Names of cases: by file, or by folder where file names repeat."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.case_names import case_name, scheme_for
from metanas_med.data.dataset import read_dataset, survey_dataset
from metanas_med.data.scans import survey_scans


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["imagesTr/a.nii.gz", "imagesTr/b.nii"], ["a", "b"]),
        (["s0/ct.nii.gz", "s1/ct.nii.gz"], ["s0", "s1"]),
        (["s0/ct.nii.gz", "s1/ct.nii.gz", "s2/scan.nii.gz"], ["s0", "s1", "s2"]),
        (["s0/ct.nii.gz", "s0/pet.nii.gz", "s1/ct.nii.gz"], ["s0_ct", "s0_pet", "s1_ct"]),
        (["p0/day1/ct.nii", "p0/day2/ct.nii", "p1/day1/ct.nii"], ["p0_day1", "p0_day2", "p1_day1"]),
        (["a/s0/ct.nii", "b/s0/ct.nii"], ["a_s0", "b_s0"]),
        (["../x/ct.nii", "/far/y/ct.nii"], ["x", "y"]),
        (["ct.nii.gz", "s1/ct.nii.gz"], ["ct", "s1"]),
        (["imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "imagesTr/a.nii.gz"], ["a", "b", "a"]),  # one file listed twice
        (["s0/ct.nii", "s0/ct.nii.gz"], ["ct", "ct"]),  # no folder tells them from each other
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    given = [PurePosixPath(path) for path in paths]
    for order in permutations(range(len(given))):
        scheme = scheme_for([given[i] for i in order])
        assert [scheme.name(given[i]) for i in order] == [names[i] for i in order]


def test_a_name_is_that_of_the_file_without_suffix() -> None:
    assert [case_name(text) for text in ("a/b.c.nii.gz", "b.nii", "a\\b.nii", "x", 7, None)] == ["b.c", "b", "b", "x", "", ""]


def case_folders(root: Path, save_nifti: Any, write_json: Any, **lists: list[str]) -> Path:
    image, label = np.arange(960, dtype=np.int16).reshape(10, 12, 8), np.zeros((10, 12, 8), np.uint8)
    label[2:5, 3:6, 2:5] = 1
    tree: dict[str, Any] = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "a"}}
    for key, folders in lists.items():
        for folder in folders:
            save_nifti(root / folder / "ct.nii.gz", image)
            save_nifti(root / folder / "seg.nii.gz", label)
        pairs = [{"image": f"{folder}/ct.nii.gz", "label": f"{folder}/seg.nii.gz"} for folder in folders]
        tree[key] = pairs if key == "training" else [pair["image"] for pair in pairs]
    (root / "dataset.json").touch()
    write_json(root, tree)
    return root


@pytest.fixture
def write_json() -> Any:
    import json

    return lambda root, tree: (root / "dataset.json").write_text(json.dumps(tree))


def test_one_folder_a_case(tmp_path: Path, save_nifti: Any, write_json: Any, cache_dir: Path) -> None:
    root = case_folders(tmp_path / "Body", save_nifti, write_json, training=["s0", "s1", "s2"], test=["s9"])
    dataset = read_dataset(root)
    assert [(case.name, case.patient) for case in dataset.cases] == [("s0", "s0"), ("s1", "s1"), ("s2", "s2")]
    assert [case.name for case in dataset.unlabelled] == ["s9"]  # named like the others, although its file name is unique
    assert [case.name for case in survey_scans(root)[0].cases] == ["s0", "s1", "s2", "s9"]
    assert prepare([root], cache_dir)[0].status == "built"
    (root / "card.yaml").write_text("dataset: Body\ngroup: body\nmodality: CT\npatient: 's(.*)'\n")
    assert [case.patient for case in read_dataset(root).cases] == ["0", "1", "2"]
    write = case_folders(root, save_nifti, write_json, training=["s1", "s2"])  # its first case is gone: still the same data set
    assert prepare([write], cache_dir)[0].cases == 2


def test_a_test_scan_with_the_name_of_a_training_scan(make_msd: Any, edit_json: Any, save_nifti: Any) -> None:
    root = make_msd()
    save_nifti(root / "imagesTs/case_0.nii.gz", np.arange(960, dtype=np.int16).reshape(10, 12, 8))
    edit_json(root, test=["imagesTs/case_0.nii.gz"])
    assert [case.name for case in read_dataset(root).cases] == ["case_0", "case_1", "case_2"]
    dataset, problems = survey_scans(root)
    assert problems == [] and [case.name for case in dataset.cases] == ["case_0", "case_1", "case_2", "imagesTs"]


def test_two_files_that_no_folder_tells_apart(make_msd: Any, edit_json: Any) -> None:
    root = make_msd(num_cases=1)
    (root / "imagesTr/case_0.nii").write_bytes(b"x")
    pairs = [{"image": f"imagesTr/case_0.{suffix}", "label": "labelsTr/case_0.nii.gz"} for suffix in ("nii.gz", "nii")]
    edit_json(root, training=pairs)
    (problem,) = survey_dataset(root)[1]
    assert "imagesTr/case_0.nii and imagesTr/case_0.nii.gz give the same case name; rename one" in problem.problem
    edit_json(root, training=[pairs[0], pairs[0]])
    (problem,) = survey_dataset(root)[1]
    assert "listed twice" in problem.problem
