"""Folders of nnU-Net v2 as they are: channels of a case by file names, regions, an ignore label, folds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.dataset import read_dataset, survey_dataset
from metanas_med.data.scans import survey_scans
from metanas_med.data.unlabelled import unlabelled_scans
from metanas_med.engine.evaluate import evaluate_folder
from metanas_med.engine.scan_files import find_scans, label_maps, scans_in
from metanas_med.errors import DataError
from metanas_med.ignored import IGNORED
from metanas_med.tasks.organ import organ_map, task_in

SHAPE = (10, 12, 8)


def affine_of(number: int) -> np.ndarray:
    affine = np.diag([1.0, 1, 2, 1])
    affine[0, 3] = 5.0 * number
    return affine


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def nnunet(tmp_path: Path) -> Callable[..., Path]:
    """``nnunet(channels, **changes of dataset.json)`` writes a raw folder of nnU-Net v2: 3 cases and 1 to predict."""

    def make(channels: int, **changes: Any) -> Path:
        root = tmp_path / f"Dataset50{channels}_Raw"
        for number in range(4):
            part = "Tr" if number < 3 else "Ts"
            for c in range(channels):
                image = np.random.default_rng(10 * number + c).integers(0, 900, SHAPE).astype(np.int16)
                save(root / f"images{part}/case_{number:03d}_{c:04d}.nii.gz", image, affine_of(number))
            if part == "Tr":
                label = np.zeros(SHAPE, np.uint8)
                label[2:5, 3:6, 2:5] = 1
                save(root / f"labelsTr/case_{number:03d}.nii.gz", label, affine_of(number))
        names = {str(c): name for c, name in enumerate(["T1", "FLAIR", "T2"][:channels])}
        tree = {
            "channel_names": names,
            "labels": {"background": 0, "a": 1},
            "numTraining": 3,
            "file_ending": ".nii.gz",
            **changes,
        }
        (root / "dataset.json").write_text(json.dumps({k: v for k, v in tree.items() if v is not None}))
        return root

    return make


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"file_ending": None}])
def test_every_reader_joins_the_channels_of_a_case(
    nnunet: Callable[..., Path], cache_dir: Path, channels: int, changes: dict[str, Any]
) -> None:
    root = nnunet(channels, **changes)
    (row,) = prepare([root], cache_dir)
    assert (row.cases, row.bad) == (3, ()) and row.channel_names == ("T1", "FLAIR", "T2")[:channels]
    cache = open_cache(cache_dir / f"{root.name}.h5")
    assert [case.name for case in cache.cases] == ["case_000", "case_001", "case_002"]
    for c in range(channels):
        want = np.asarray(nib.load(root / f"imagesTr/case_001_{c:04d}.nii.gz").dataobj)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(cache.image("case_001")[c], want)
    assert cache.cases[0].label_voxels == {1: 27}
    assert prepare([root], cache_dir)[0].status == "fresh"
    changed = root / f"imagesTr/case_001_{channels - 1:04d}.nii.gz"
    save(changed, np.arange(960).reshape(SHAPE).astype(np.int16), affine_of(1))
    assert prepare([root], cache_dir)[0].status == "built"
    assert [case.name for case in survey_scans(root)[0].cases] == [f"case_00{n}" for n in range(4)]
    scans = unlabelled_scans(root).scans
    assert {scan.num_channels for scan in scans} == {channels} and scans[0].read().shape == (channels, *SHAPE)


@pytest.mark.parametrize("channels", [1, 2])
def test_scans_to_predict(nnunet: Callable[..., Path], tmp_path: Path, channels: int) -> None:
    root = nnunet(channels)
    plain = tmp_path / "plain"
    shutil.copytree(root / "imagesTr", plain)
    for given, names in (
        ([root], ["case_003"]),
        ([root / "imagesTs"], ["case_003"]),
        ([root / "imagesTs/case_003_0000.nii.gz"], ["case_003"]),
        (sorted((root / "imagesTr").iterdir()), ["case_000", "case_001", "case_002"]),
        ([plain], ["case_000", "case_001", "case_002"]),
        ([plain, plain / "case_001_0000.nii.gz"], ["case_000", "case_001", "case_002"]),
    ):
        scans = scans_in(given)
        assert all(len(scan.files) == channels for scan in scans)
        assert [target.name for target in label_maps(scans, tmp_path).values()] == [f"{name}.nii.gz" for name in names]
    if channels == 2:
        with pytest.raises(DataError, match="first file is case_003_0000.nii.gz; give that one"):
            scans_in([root / "imagesTs/case_003_0001.nii.gz"])


def test_a_plain_folder_with_an_absent_channel(nnunet: Callable[..., Path], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(nnunet(2) / "imagesTr", plain)
    (plain / "case_001_0001.nii.gz").unlink()
    assert [len(scan.files) for scan in scans_in([plain])] == [2, 1, 2]  # the model's number of channels decides
    dataset, problems = survey_scans(plain)
    assert [case.name for case in dataset.cases] == ["case_000", "case_002"]
    assert "found 1 channel(s), most have 2" in problems[0].problem


def test_all_bad_cases_are_named(nnunet: Callable[..., Path], cache_dir: Path) -> None:
    root = nnunet(2)
    (root / "imagesTr/case_000_0001.nii.gz").unlink()
    save(root / "imagesTr/case_001_0001.nii.gz", np.ones((9, 12, 8), np.int16), affine_of(1))
    save(root / "imagesTr/case_002_0001.nii.gz", np.arange(960).reshape(SHAPE).astype(np.int16), affine_of(3))
    (root / "imagesTr/case_004_0000.nii.gz").write_bytes(b"")
    save(root / "labelsTr/case_005.nii.gz", np.zeros(SHAPE, np.uint8), affine_of(5))
    with pytest.raises(BadCases) as caught:
        prepare([root], cache_dir)
    told = {row["case"]: row["problem"] for row in caught.value.table}
    assert "case_000_0001.nii.gz: no such file" in told["case_000"]
    assert "found shape 9 x 12 x 8, case_001_0000.nii.gz has 10 x 12 x 8" in told["case_001"]
    assert "lies elsewhere than case_002_0000.nii.gz" in told["case_002"]
    assert "case_004_0001.nii.gz: no such file" in told["case_004"] and "case_005_0000.nii.gz: no such file" in told["case_005"]
    assert not list(cache_dir.glob("*.h5"))
    (root / "imagesTr/case_003_0000.nii.gz").write_bytes(b"x")  # a scan without a label map
    assert "case_003" in {row.case for row in survey_dataset(root)[1]}


def test_a_dataset_json_that_is_missing_or_of_another_form(nnunet: Callable[..., Path], tmp_path: Path, cache_dir: Path) -> None:
    root = nnunet(1, channel_names=None, file_ending=None, modality={"0": "CT"})
    with pytest.raises(DataError, match="as in nnU-Net.*'From nnU-Net' in docs/data.md"):
        read_dataset(root)
    (root / "dataset.json").unlink()
    with pytest.raises(DataError, match="as in nnU-Net.*no dataset.json"):
        read_dataset(root)
    for changes, told in (
        ({"file_ending": 3}, "'file_ending' is 3"),
        ({"file_ending": ".nrrd"}, "found no training case; expected imagesTr/CASE_0000.nrrd"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "'regions_class_order' is None"),
        ({"labels": {"background": 0, "whole": []}, "regions_class_order": [1]}, "a list of different label values"),
        ({"labels": {"background": 0, "a": 1, "ignore": 2, "ignored": 3}}, "two values to ignore"),
        ({"labels": {"background": 0, "whole": [1, 2], "ignore": 2}, "regions_class_order": [1]}, "holds 2, the value to ignore"),
    ):
        with pytest.raises(DataError, match=told):
            read_dataset(nnunet(1, **changes))
    out = nnunet(1)
    with pytest.raises(DataError, match="this is a data set.*labelsTr"):
        evaluate_folder(out, out, tmp_path / "out")


def test_regions_become_unions(nnunet: Callable[..., Path], cache_dir: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    root = nnunet(1, labels=labels, regions_class_order=[1, 2, 3])
    for number in range(3):
        label = np.zeros(SHAPE, np.uint8)
        label[1:7, 2:8, 1:6], label[2:6, 3:7, 2:5], label[3:5, 4:6, 3] = 1, 2, 3
        save(root / f"labelsTr/case_{number:03d}.nii.gz", label, affine_of(number))
    prepare([root], cache_dir)
    cache = open_cache(cache_dir / f"{root.name}.h5")
    assert cache.labels == {1: "label 1", 2: "label 2", 3: "enhancing"} and cache.regions == {"whole": (1, 2, 3), "core": (2, 3)}
    for organ, values in (("whole", (1, 2, 3)), ("Core", (2, 3)), ("enhancing", (3,))):
        task = task_in(cache, organ)
        assert task.organs == (values,) and task.names == (organ.lower(),)
        np.testing.assert_array_equal(task.remap(cache.label("case_000")), np.isin(cache.label("case_000"), values))
    assert task_in(cache, "whole").part_names == (("label 1", "label 2", "enhancing"),)
    with pytest.raises(DataError, match="appears twice"):
        task_in(cache, "whole,core")
    with pytest.raises(DataError, match="whole"):
        task_in(cache, "wohle")


def test_folds_are_kept_and_checked(nnunet: Callable[..., Path], cache_dir: Path) -> None:
    root = nnunet(1)
    folds = [{"train": ["case_000", "case_001"], "val": ["case_002"]}]
    where = root / "splits_final.json"
    where.write_text(json.dumps(folds))
    prepare([root], cache_dir)
    (fold,) = open_cache(cache_dir / f"{root.name}.h5").splits
    assert fold == {"train": ("case_000", "case_001"), "val": ("case_002",)}
    for content, told in (
        ("[", "malformed"),
        ('{"train": []}', "expected"),
        ('[{"train": ["case_009"], "val": []}]', "'case_009', which is no case"),
        ('[{"train": ["case_001"], "val": ["case_001"]}]', "under 'train' and 'val'"),
    ):
        where.write_text(content)
        with pytest.raises(DataError, match=told):
            read_dataset(root)


def test_ignored_voxels_of_an_organ_map(nnunet: Callable[..., Path], cache_dir: Path) -> None:
    root = nnunet(1, labels={"background": 0, "a": 1, "ignore": 2})
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 3:6, 2:5], label[..., :2] = 1, 2
    save(root / "labelsTr/case_000.nii.gz", label, affine_of(0))
    (row,) = prepare([root], cache_dir)
    assert any("240 voxels are ignored" in note for note in row.notes)
    cache = open_cache(cache_dir / f"{root.name}.h5")
    assert cache.labels == {1: "a"} and cache.ignore == 2 and cache.cases[0].label_voxels == {1: 27}
    found = organ_map(cache, task_in(cache), "case_000")
    np.testing.assert_array_equal(found, np.where(label == 2, IGNORED, label))
    image = cache.image("case_000")[0]
    assert (image[label == 2] == image[label != 2].min()).all()
    every = np.full(SHAPE, 2, np.uint8)
    save(root / "labelsTr/case_001.nii.gz", every, affine_of(1))
    with pytest.raises(BadCases, match="every voxel of the label map has the value to ignore"):
        prepare([root], cache_dir)


def test_predictions_are_scored_outside_of_ignored_voxels(nnunet: Callable[..., Path], tmp_path: Path) -> None:
    root = nnunet(1, labels={"background": 0, "a": 1, "ignore": 2})
    for number in range(3):
        path = root / f"labelsTr/case_{number:03d}.nii.gz"
        label = np.asarray(nib.load(path).dataobj).copy()  # type: ignore[attr-defined]
        save(tmp_path / "found" / path.name, np.where(np.arange(8) < 2, 1, label).astype(np.uint8), affine_of(number))
        save(path, np.where(np.arange(8) < 2, 2, label).astype(np.uint8), affine_of(number))
    summary = evaluate_folder(tmp_path / "found", root / "labelsTr", tmp_path / "out")
    assert summary["organs"]["label_1"]["dice"]["mean"] == 1.0 and list(summary["organs"]) == ["label_1"]


def test_files_of_one_case_alone_are_its_channels(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"a_000{c}.nii.gz", np.full(SHAPE, c, np.int16), np.eye(4)) for c in range(2)]
    for given in ([tmp_path], paths, paths[:1]):
        assert find_scans(given) == paths[:1]
        assert len(scans_in(given)[0].files) == 2


def test_other_formats_are_read_by_their_ending(nnunet: Callable[..., Path], cache_dir: Path) -> None:
    sitk: Any = pytest.importorskip("SimpleITK")
    pytest.importorskip("nrrd")
    root = nnunet(2, file_ending=".nrrd")
    for path in sorted(root.glob("*/*.nii.gz")):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ".nrrd"))
        path.unlink()
    (row,) = prepare([root], cache_dir)
    assert (row.cases, row.bad, row.channel_names) == (3, (), ("T1", "FLAIR"))
    assert [case.name for case in open_cache(cache_dir / f"{root.name}.h5").cases] == ["case_000", "case_001", "case_002"]
    assert [scan.place.name for scan in scans_in([root])] == ["case_003.nrrd"]
    with pytest.raises(DataError, match=r"end with \.png \('file_ending'\) are not read"):
        read_dataset(nnunet(1, file_ending=".png"))
