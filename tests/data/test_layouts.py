"""Folders that are nearly in the layout of nnU-Net, and folders of pairs: a clear error, and none for what only looks alike."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.dataset import read_dataset
from metanas_med.data.scans import survey_scans
from metanas_med.engine.scan_files import find_scans
from metanas_med.errors import DataError

TOLD = r"as in nnU-Net.*'From nnU-Net' in docs/data\.md"


def scan(path: Path, seed: int = 0, shape: tuple[int, int, int] = (10, 12, 8), origin: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1, 2, 1])
    affine[0, 3] = origin
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16), affine), path)
    return path


def test_a_link_to_a_lost_file_is_not_passed_over(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "lost.nii.gz")
    assert [path.name for path in find_scans([tmp_path])] == ["a.nii.gz", "b.nii.gz"]
    assert [row.case for row in survey_scans(tmp_path)[1]] == ["b"]


def test_names_of_nnunet_that_only_the_list_of_scans_reveals(make_msd: Any, edit_json: Any) -> None:
    root = make_msd()  # version 1: the list names a case, the file a channel
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    with pytest.raises(DataError, match=r"lists \./imagesTr/case_0\.nii\.gz, the file is case_0_0000\.nii\.gz"):
        read_dataset(root)
    both = make_msd("Both")  # each channel listed as a scan of its own
    training = []
    for number in range(3):
        shutil.copy(both / f"imagesTr/case_{number}.nii.gz", both / f"imagesTr/case_{number}_0001.nii.gz")
        (both / f"imagesTr/case_{number}.nii.gz").rename(both / f"imagesTr/case_{number}_0000.nii.gz")
        label = f"labelsTr/case_{number}.nii.gz"
        training += [{"image": f"imagesTr/case_{number}_000{c}.nii.gz", "label": label} for c in range(2)]
    edit_json(both, training=training)
    for read in (read_dataset, survey_scans):
        with pytest.raises(DataError, match="with one label map, labelsTr/case_0.nii.gz.*'From nnU-Net'"):
            read(both)


def test_a_list_that_names_channel_files_is_read(make_msd: Any, edit_json: Any, cache_dir: Path) -> None:
    root = make_msd()
    training = []
    for number in range(3):
        (root / f"imagesTr/case_{number}.nii.gz").rename(root / f"imagesTr/case_{number}_0000.nii.gz")
        training.append({"image": f"imagesTr/case_{number}_0000.nii.gz", "label": f"labelsTr/case_{number}.nii.gz"})
    edit_json(root, training=training, channel_names={"0": "CT"}, modality=None, numTraining=3)
    assert [case.name for case in read_dataset(root).cases] == ["case_0_0000", "case_1_0000", "case_2_0000"]
    assert len(survey_scans(root)[0].cases) == 3 and len(find_scans([root])) == 3
    assert prepare([root], cache_dir)[0].cases == 3


@pytest.mark.parametrize(
    "names",
    [
        ["a_0000", "b"],  # one name among others
        ["a_0000", "b_0000", "c"],
        ["a_0001", "a_0002", "a_0003"],  # counted from 1
        ["a_0000", "a_0002"],  # not all channels
        ["s_0000", "s_0001", "s_0002", "s_0003", "s_0004", "s_0005"],  # counted scans
        ["case_000", "case_001"],
        ["a_00000", "b_00000"],
    ],
)
def test_names_that_only_look_alike_are_scans(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        scan(tmp_path / f"{name}.nii.gz")
    assert len(find_scans([tmp_path])) == len(names) == len(survey_scans(tmp_path)[0].cases)
    assert len(find_scans(sorted(tmp_path.iterdir()))) == len(names)


def test_counted_scans_on_different_grids_are_scans(tmp_path: Path) -> None:
    for site in "ab":
        for number in range(2):
            scan(tmp_path / f"{site}_000{number}.nii.gz", shape=(10, 12, 8 + number))
    assert len(find_scans([tmp_path])) == 4 == len(survey_scans(tmp_path)[0].cases)


def test_a_single_file_is_a_scan_where_nothing_else_says_nnunet(tmp_path: Path) -> None:
    path = scan(tmp_path / "a_0000.nii.gz")
    assert find_scans([path]) == [path]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["imagesTr/p{}.nii.gz", "labelsTr/p{}.nii.gz"], "2 pair.s. of one name in imagesTr and labelsTr, such as p0.nii.gz"),
        (["images/p{}.nii", "labels/p{}.nii"], "2 pair.s. of one name in images and labels, such as p0.nii"),
        (["scans/p{}.nii.gz", "masks/p{}.nii.gz"], "2 pair.s. of one name in scans and masks"),
        (["p{}.nii.gz", "p{}_seg.nii.gz"], "2 pair.s. such as p0.nii.gz and p0_seg.nii.gz"),
        (["p{}_ct.nii.gz", "p{}-label.nii.gz"], "2 pair.s. such as p0_ct.nii.gz and p0-label.nii.gz"),
        (["s{}/ct.nii.gz", "s{}/seg.nii.gz"], "2 folders with files of the same names, such as s0/ct.nii.gz and s0/seg.nii.gz"),
        (["p{}.nii.gz"], "2 scan.s. and no pairs"),
    ],
)
def test_pairs_without_a_list_are_described(tmp_path: Path, files: list[str], told: str) -> None:
    for number in range(2):
        for name in files:
            path = tmp_path / "Mine" / name.format(number)
            scan(path)
    with pytest.raises(DataError, match=rf"dataset\.json: no such file.*'Your own scans'.*Found {told}"):
        read_dataset(tmp_path / "Mine")


def test_a_folder_of_data_sets_is_described(make_msd: Any) -> None:
    root = make_msd("A")
    make_msd("B")
    with pytest.raises(DataError, match=r"Found 2 data set folder\(s\) in it: A, B; name these"):
        read_dataset(root.parent)


@pytest.mark.parametrize(
    "name", ["ignore", "Ignore", "IGNORE", "ignore label", "ignore_label", " ignored ", "to ignore", "ignore index"]
)
@pytest.mark.parametrize("form", ["msd", "nnunet", "card"])
def test_an_ignore_label_is_never_an_organ(make_msd: Any, edit_json: Any, name: str, form: str) -> None:
    root = make_msd()
    if form == "card":
        (root / "card.yaml").write_text(f"dataset: Toy\ngroup: toy\nmodality: MR\norgans: {{2: '{name}'}}\n")
        with pytest.raises(DataError, match="the card names label 2 .*named in dataset.json"):
            read_dataset(root)
        return
    labels = {"0": "background", "1": "first", "2": name} if form == "msd" else {"background": 0, "first": 1, name: 2}
    edit_json(root, labels=labels)
    found = read_dataset(root)
    assert found.labels == {1: "first"} and found.ignore == 2


def test_a_label_whose_name_only_contains_ignore_is_an_organ(make_msd: Any, edit_json: Any) -> None:
    root = make_msd()
    edit_json(root, labels={"0": "background", "1": "ignored tooth", "2": "ignorance"})
    assert read_dataset(root).labels == {1: "ignored tooth", 2: "ignorance"}


@pytest.mark.parametrize("name", ["background", "Background ", "BACKGROUND"])
def test_the_background_is_never_an_organ(make_msd: Any, edit_json: Any, name: str) -> None:
    root = make_msd()
    edit_json(root, labels={"0": "first", "1": name, "2": "second"})
    with pytest.raises(DataError, match="label 1 is named .*expected the background as 0"):
        read_dataset(root)
