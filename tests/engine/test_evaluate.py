"""Evaluation of folders and arrays: pairs by name, a missed case counts, a wrong geometry stops."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metanas_med.engine.evaluate import evaluate_arrays, evaluate_folder
from metanas_med.errors import DataError
from metanas_med.privacy import PRIVATE_FILE

AFFINE = np.diag([1.5, 1.5, 4.0, 1.0])


def save(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), path)  # pyright: ignore[reportPrivateImportUsage]


def two_organs(shift: int = 0) -> np.ndarray:
    labels = np.zeros((24, 20, 10), np.uint8)
    labels[4 + shift : 12 + shift, 4:12, 2:8] = 1
    labels[16:20, 14:18, 3:6] = 2
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return predictions, labels and an output folder: ``a`` perfect, ``b`` shifted, in another ending, ``c`` not predicted."""
    predictions, labels = tmp_path / "predictions", tmp_path / "labels"
    for case in "abc":
        save(labels / f"{case}.nii.gz", two_organs())
    save(predictions / "a.nii.gz", two_organs())
    save(predictions / "b.nii", two_organs(shift=2))
    (labels / "._a.nii.gz").write_bytes(b"left by a file browser")
    (labels / "notes.txt").write_text("not a scan")
    return predictions, labels, tmp_path / "out"


def test_folders(folders: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    predictions, labels, out = folders
    save(predictions / "z.nii.gz", two_organs())
    with caplog.at_level(logging.WARNING):
        summary = evaluate_folder(predictions, labels, out, {1: "liver", 2: "tumour"})
    assert "missed: c" in caplog.text and "left out: z" in caplog.text
    names = json.loads((out / PRIVATE_FILE).read_text())["cases"]
    assert sorted(names.values()) == ["a", "b", "c", "z"] and all(identifier.startswith("case-") for identifier in names)
    with open(out / "metrics.csv") as source:
        rows = {(names[row["case"]], row["organ"]): row for row in csv.DictReader(source)}
    assert list(rows) == [(case, organ) for case in "abc" for organ in ("liver", "tumour")]
    assert list(rows["a", "liver"])[:8] == [
        "case",
        "organ",
        "label",
        "dice",
        "nsd",
        "hd95_mm",
        "truth_voxels",
        "predicted_voxels",
    ]
    assert [float(rows[case, "liver"]["dice"]) for case in "abc"] == [1.0, 0.75, 0.0]
    assert float(rows["b", "liver"]["hd95_mm"]) == pytest.approx(3.0)  # 2 voxels of 1.5 mm
    assert float(rows["c", "tumour"]["hd95_mm"]) == pytest.approx(np.linalg.norm([36, 30, 40]))
    assert rows["c", "tumour"]["predicted_voxels"] == "0"

    written = json.loads((out / "summary.json").read_text())
    for key in ("missing_predictions", "extra_predictions"):
        written[key] = [names[identifier] for identifier in written[key]]
    assert summary == written
    assert summary["num_cases"] == 3 and summary["missing_predictions"] == ["c"] and summary["extra_predictions"] == ["z"]
    liver = summary["organs"]["liver"]
    assert liver["num_missed"] == 1 and liver["dice"]["mean"] == pytest.approx(1.75 / 3)
    assert summary["all_organs"]["dice"]["mean"] == pytest.approx((1 + 0.875 + 0) / 3)


def test_organs_are_found_in_the_labels(folders: tuple[Path, Path, Path]) -> None:
    assert list(evaluate_folder(*folders)["organs"]) == ["label_1", "label_2"]


def test_bad_input_writes_nothing(folders: tuple[Path, Path, Path]) -> None:
    predictions, labels, out = folders
    save(predictions / "b.nii", two_organs(), AFFINE + np.eye(4) * [[1], [0], [0], [0]])
    with pytest.raises(DataError, match="affine"):
        evaluate_folder(predictions, labels, out)
    save(predictions / "b.nii", two_organs()[:-1])
    with pytest.raises(DataError, match="shape"):
        evaluate_folder(predictions, labels, out)
    save(predictions / "b.nii.gz", two_organs())
    with pytest.raises(DataError, match="one file per case"):
        evaluate_folder(predictions, labels, out)
    with pytest.raises(DataError, match="no such folder"):
        evaluate_folder(predictions / "absent", labels, out)
    assert not out.exists()


def test_nothing_to_compare(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "labels" / "a.nii.gz", two_organs())
    save(tmp_path / "blank" / "a.nii.gz", two_organs() * 0)
    with pytest.raises(DataError, match="no label maps"):
        evaluate_folder(tmp_path / "labels", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="equal names"):
        evaluate_folder(tmp_path / "empty", tmp_path / "labels", tmp_path / "out")
    with pytest.raises(DataError, match="are empty"):
        evaluate_folder(tmp_path / "labels", tmp_path / "blank", tmp_path / "out")
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate_arrays([], {1: "liver"}, tmp_path / "out")


def test_arrays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth, prediction = two_organs(), two_organs()
    prediction[0, 0, 0] = 7
    with caplog.at_level(logging.WARNING):
        summary = evaluate_arrays([("x", truth, prediction, (1, 1, 1))], {1: "liver", 3: "absent"}, tmp_path)
    assert "[2, 7]" in caplog.text
    assert summary["organs"]["absent"]["num_empty_truth"] == 1 and summary["organs"]["liver"]["dice"]["mean"] == 1.0
