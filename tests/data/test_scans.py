"""Folders of unlabelled scans: only images are read, and unexpected labels are reported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.scans import survey_scans
from metanas_med.errors import DataError


@pytest.fixture
def plain(tmp_path: Path, make_msd: Any) -> Path:
    """A folder of three scans and nothing else."""
    folder = tmp_path / "Plain"
    shutil.copytree(make_msd("Toy") / "imagesTr", folder)
    return folder


def cached(folder: Path, cache: Path) -> Any:
    prepare([folder], cache, labels=False)
    return open_cache(cache / f"{folder.name}.h5")


def test_a_plain_folder(plain: Path, cache_dir: Path) -> None:
    (plain / "._case_0.nii.gz").write_bytes(b"x")
    (plain / "notes.txt").write_text("x")
    data = cached(plain, cache_dir)
    assert [c.name for c in data.cases] == ["case_0", "case_1", "case_2"]
    assert data.labels == {} and data.modality == ("unknown",) and not data.patients_known
    assert data.image("case_1").shape == (1, 10, 12, 8) and all(c.label_voxels == {} for c in data.cases)
    (row,) = prepare([plain], cache_dir, labels=False)
    assert row.status == "fresh" and "no label was read" in row.notes
    (plain / "card.yaml").write_text("dataset: Plain\ngroup: heads\nmodality: CT\npatient: '(case)_.*'\n")
    data = cached(plain, cache_dir)
    assert data.modality == ("CT",) and data.group == "heads" and {c.patient for c in data.cases} == {"case"}


def test_channels_of_a_plain_folder(plain: Path, cache_dir: Path, save_nifti: Any) -> None:
    for number in range(3):
        save_nifti(plain / f"case_{number}.nii.gz", np.random.default_rng(number).normal(size=(9, 8, 7, 2)).astype(np.float32))
    assert cached(plain, cache_dir).modality == ("unknown", "unknown")
    save_nifti(plain / "other.nii.gz", np.ones((9, 8, 7), np.float32))
    with pytest.raises(BadCases, match=r"other.nii.gz: found 1 channel\(s\), most have 2"):
        prepare([plain], cache_dir, labels=False)


def test_a_damaged_file_does_not_decide_the_number_of_channels(plain: Path, save_nifti: Any) -> None:
    """The first file has no header and the second another number of channels: the other files decide."""
    (plain / "a.nii.gz").write_bytes(b"not a scan")
    save_nifti(plain / "b.nii.gz", np.zeros((9, 8, 7, 2), np.int16))
    dataset, problems = survey_scans(plain)
    assert [c.name for c in dataset.cases] == ["case_0", "case_1", "case_2"] and dataset.modality == ("unknown",)
    assert [p.case for p in problems] == ["a", "b"]
    assert survey_scans(plain, "CT")[0].modality == ("CT",)
    (plain / "card.yaml").write_text("dataset: Plain\ngroup: heads\nmodality: [CT, PET]\n")
    with pytest.raises(DataError, match="1 channels, but its card gives 2 modalities"):
        survey_scans(plain)


def test_a_data_set_whose_labels_are_not_read(
    make_msd: Any, cache_dir: Path, caplog: pytest.LogCaptureFixture, edit_json: Any
) -> None:
    root = make_msd("Toy")
    shutil.rmtree(root / "labelsTr")
    (root / "imagesTs").mkdir()
    shutil.copy(root / "imagesTr/case_0.nii.gz", root / "imagesTs/more.nii.gz")
    edit_json(root, test=["./imagesTs/more.nii.gz", "./imagesTs/absent.nii.gz"], labels=None)
    data = cached(root, cache_dir)
    assert [c.name for c in data.cases] == ["case_0", "case_1", "case_2", "more"] and data.modality == ("MR",)
    assert "Toy: dataset.json lists labels of 3 scans; they are not read" in caplog.text


def test_unexpected_labels_are_refused(plain: Path, cache_dir: Path, make_msd: Any) -> None:
    shutil.copytree(make_msd("Other") / "labelsTr", plain / "labelsTr")
    with pytest.raises(DataError, match="labelsTr: found labels in a folder without dataset.json"):
        survey_scans(plain)
    (plain / "labelsTr").rename(plain / "elsewhere")
    shutil.copy(plain / "elsewhere/case_1.nii.gz", plain / "case_1_seg.nii.gz")
    with pytest.raises(BadCases, match=r"case_1_seg.*looks like a label map \(3 different values, whole numbers up to 2\)"):
        prepare([plain], cache_dir, labels=False)
    assert not list(cache_dir.glob("*.h5"))


def test_a_folder_without_scans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        survey_scans(tmp_path / "none")
    with pytest.raises(DataError, match="found no scan"):
        survey_scans(tmp_path)


def test_two_files_of_the_same_name(plain: Path) -> None:
    (plain / "imagesTr").mkdir()
    shutil.copy(plain / "case_0.nii.gz", plain / "imagesTr/case_0.nii.gz")
    (problem,) = survey_scans(plain)[1]
    assert "two files of this name" in problem.problem


def test_the_advice_for_bad_scans_can_be_followed(plain: Path, cache_dir: Path, make_msd: Any) -> None:
    """``prepare --skip-bad`` needs labels, so it does not help for a folder of scans."""
    (plain / "case_1.nii.gz").write_bytes(b"x")
    with pytest.raises(BadCases, match="Fix the scans, or remove them from the folder") as caught:
        prepare([plain], cache_dir, labels=False)
    assert "--skip-bad" not in str(caught.value)
    root = make_msd("Bad")
    (root / "imagesTr/case_1.nii.gz").write_bytes(b"x")
    with pytest.raises(BadCases, match="--skip-bad"):
        prepare([root], cache_dir)


def test_null_lists_are_no_lists(make_msd, tmp_path):
    import json

    root = make_msd("Nulls")
    tree = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**tree, "test": None}))
    assert not survey_scans(root)[0].patients_known
