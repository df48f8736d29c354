"""Label maps on the voxels of their scans: turned if necessary, and never taken for what they may not be."""

from __future__ import annotations

import shutil
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff

from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.options import ReadOptions
from metanas_med.data.orientation import to_canonical
from metanas_med.engine.evaluate import evaluate_folder
from metanas_med.errors import DataError

SHAPE = (10, 12, 8)
LIKE_IMAGES = ReadOptions(labels_like_images=True)


def rotated(degrees: float) -> np.ndarray:
    """Return an oblique affine: voxels of 2 x 1 x 3 mm, turned about z and then about x."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = (
        np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) @ [[c, -s, 0], [s, c, 0], [0, 0, 1]] @ np.diag([2, 1, 3])
    )
    affine[:3, 3] = -31, 12.5, 400
    return affine


def store(path: Path, array: np.ndarray, affine: np.ndarray, axes: Any = (0, 1, 2), flips: Any = (1, 1, 1)) -> None:
    """Write the same voxels of the world with another order and direction of axes."""
    turn = np.stack([axes, flips], 1).astype(float)
    nib.save(nib.Nifti1Image(apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)), path)


def labels_of(root: Path) -> dict[str, np.ndarray]:
    path = root / "labelsTr"
    return {f.name: np.asarray(nib.load(f).dataobj) for f in sorted(path.iterdir())}  # type: ignore[attr-defined]


@pytest.mark.parametrize("degrees", [0, 20, 45, 45.0001, 90, 44.9999])
def test_labels_in_every_order_and_direction_of_axes(make_msd: Any, cache_dir: Path, degrees: float) -> None:
    root = make_msd(num_cases=48, affine=rotated(degrees))
    rng = np.random.default_rng(0)
    turns = list(product(permutations(range(3)), product((1, -1), repeat=3)))
    expected = {}
    for number in range(len(turns)):
        label = rng.integers(0, 3, SHAPE).astype(np.uint8)
        store(root / f"labelsTr/case_{number}.nii.gz", label, rotated(degrees))
        expected[f"case_{number}"] = label
    prepare([root], cache_dir)
    straight = open_cache(cache_dir / "Toy.h5")
    want = {name: straight.label(name) for name in expected}
    straight.close()
    for number, (axes, flips) in enumerate(turns):
        store(root / f"labelsTr/case_{number}.nii.gz", expected[f"case_{number}"], rotated(degrees), axes, flips)
    (row,) = prepare([root], cache_dir)
    assert row.status == "built" and row.notes == ("each file counts as a patient",)
    turned = open_cache(cache_dir / "Toy.h5")
    for name, label in want.items():
        np.testing.assert_array_equal(turned.label(name), label)


def test_a_turned_label_on_other_voxels_is_refused(make_msd: Any, cache_dir: Path) -> None:
    affine = rotated(20)
    root = make_msd(affine=affine)
    label = labels_of(root)["case_1.nii.gz"]
    for shift in (0.5, 1, -3):
        moved = affine.copy()
        moved[:3, 3] += affine[:3, 0] * shift
        store(root / "labelsTr/case_1.nii.gz", label, moved, (2, 0, 1), (1, -1, 1))
        with pytest.raises(BadCases, match="case_1.*has shape"):
            prepare([root], cache_dir)
    store(root / "labelsTr/case_1.nii.gz", label[:-1], affine, (0, 1, 2), (-1, 1, 1))
    with pytest.raises(BadCases, match="case_1.*has shape"):
        prepare([root], cache_dir)


def test_a_label_without_orientation_is_never_turned(make_msd: Any, cache_dir: Path) -> None:
    """Readers assume x to run to the left, and the scan's middle at 0: such a guess would mirror this label."""
    affine = np.diag([2.0, 2, 3, 1])
    affine[:3, 3] = -(np.array(SHAPE) - 1) / 2 * (2, 2, 3)
    root = make_msd(affine=affine)
    for name, label in labels_of(root).items():
        bare = nib.Nifti1Image(label, None)
        bare.header.set_zooms((2, 2, 3))
        nib.save(bare, root / "labelsTr" / name)
    with pytest.raises(BadCases, match="case_0.*has no orientation .sform and qform codes are 0.*--labels-like-images"):
        prepare([root], cache_dir)
    before = labels_of(root)
    prepare([root], cache_dir, options=LIKE_IMAGES)
    np.testing.assert_array_equal(open_cache(cache_dir / "Toy.h5").label("case_0"), before["case_0.nii.gz"])


LOST = {
    "affine is the identity: its geometry was lost": np.eye(4),
    "LPS coordinates were written as RAS": np.diag([-1.0, -1, 1, 1]) @ rotated(20),
    "voxels have 2 x 1 x 3 mm, those of the label map 1 x 1 x 2 mm": np.diag([1.0, 1, 2, 1]),
    "has the axes of the scan, but another origin": rotated(20) + np.eye(4, k=3) * 40,
    "but other axes": rotated(60),
}


@pytest.mark.parametrize("told", LOST)
def test_a_lost_geometry_is_named_and_may_be_that_of_the_scan(make_msd: Any, cache_dir: Path, told: str) -> None:
    root = make_msd(affine=rotated(20))
    straight = prepare([root], cache_dir)[0]
    want = open_cache(cache_dir / "Toy.h5").label("case_1")
    shutil.rmtree(cache_dir)
    store(root / "labelsTr/case_1.nii.gz", labels_of(root)["case_1.nii.gz"], LOST[told])
    with pytest.raises(BadCases, match=f"case_1.*lie up to .* mm apart.*{told}.*--labels-like-images"):
        prepare([root], cache_dir)
    assert not cache_dir.exists() or not list(cache_dir.iterdir())
    (row,) = prepare([root], cache_dir, options=LIKE_IMAGES)
    assert row.notes[1:] == (
        "1 case(s): the label map has the shape of the scan, not its geometry: that of the scan taken: case_1",
    )
    cache = open_cache(cache_dir / "Toy.h5")
    np.testing.assert_array_equal(cache.label("case_1"), want)
    assert row.spacing_range == straight.spacing_range
    with pytest.raises(BadCases, match="--labels-like-images"):  # the switch does not last
        prepare([root], cache_dir)
    store(root / "labelsTr/case_1.nii.gz", labels_of(root)["case_1.nii.gz"][:-1], LOST[told])
    with pytest.raises(BadCases, match="has shape"):  # of another shape never
        prepare([root], cache_dir, options=LIKE_IMAGES)


def two_forms(path: Path, sform: np.ndarray, qform: np.ndarray) -> None:
    image = nib.Nifti1Image.from_filename(path)
    image.header.set_sform(sform, 2)
    image.header.set_qform(qform, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)


@pytest.mark.parametrize("of", ["scan", "label", "both"])
def test_a_label_that_agrees_by_qform_is_accepted_with_a_note(make_msd: Any, cache_dir: Path, of: str) -> None:
    moved, other = rotated(20) + np.eye(4, k=3) * 12, rotated(20) - np.eye(4, k=3) * 25
    root = make_msd(affine=rotated(20))
    for number in range(3):
        image, label = root / f"imagesTr/case_{number}.nii.gz", root / f"labelsTr/case_{number}.nii.gz"
        if of != "label":
            two_forms(image, moved, rotated(20))
        if of != "scan":
            two_forms(label, other, rotated(20))
    want = labels_of(root)["case_0.nii.gz"]
    (row,) = prepare([root], cache_dir)
    told = {
        "scan": "the label map agrees with the scan's qform, not with its sform: same voxels assumed",
        "label": "the label map agrees with the scan by its qform, not by its sform: qform taken",
        "both": "scan and label map agree by their qforms, not by their sforms: same voxels assumed",
    }[of]
    assert f"3 case(s): {told}: case_0, case_1, case_2" in row.notes
    found = open_cache(cache_dir / "Toy.h5")
    np.testing.assert_array_equal(found.label("case_0"), to_canonical(want, rotated(20))[0])


def test_predictions_and_labels_in_other_axes_are_scored_alike(make_msd: Any, tmp_path: Path) -> None:
    root = make_msd(affine=rotated(20))
    plain, turned = root / "labelsTr", tmp_path / "turned"
    turned.mkdir()
    for name, label in labels_of(root).items():
        store(turned / name, label, rotated(20), (2, 0, 1), (-1, 1, -1))
    shifted = tmp_path / "shifted"
    shifted.mkdir()
    for name, label in labels_of(root).items():
        store(shifted / name, np.roll(label, 1, 1), rotated(20))
    for number, folders in enumerate([(plain, turned), (turned, plain), (turned, turned)]):
        assert evaluate_folder(*folders, tmp_path / f"out{number}")["all_organs"]["dice"]["mean"] == 1
    a, b = (evaluate_folder(shifted, labels, tmp_path / f"to_{labels.name}") for labels in (plain, turned))
    assert a["organs"]["label_1"] == b["organs"]["label_1"] and 0 < a["organs"]["label_1"]["dice"]["mean"] < 1


def test_labels_with_lost_headers_are_scored_on_request(make_msd: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_msd(affine=rotated(20))
    lost = tmp_path / "lost"
    lost.mkdir()
    for name, label in labels_of(root).items():
        store(lost / name, label, np.eye(4))
    with pytest.raises(DataError, match="case_0.*the identity: its geometry was lost.*--labels-like-images"):
        evaluate_folder(root / "labelsTr", lost, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = evaluate_folder(root / "labelsTr", lost, tmp_path / "out", options=LIKE_IMAGES)
    assert found["all_organs"]["dice"]["mean"] == 1 and "3 case(s): the label map has the shape of the scan" in caplog.text
    rows = (tmp_path / "out" / "metrics.csv").read_text()
    assert ",2.0\n" in rows.replace("\r", "")  # the tolerance in mm is that of the scan's voxels
