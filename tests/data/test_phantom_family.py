"""The family of related phantoms: same bytes from one seed, held-out organs apart, and labels that only the grain explains."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from scipy.ndimage import label as label_pieces

from metanas_med.data.phantom_family import CONTRASTS, GRAINS, HELD_OUT, SHAPE, SHAPES, TRAINING, make_family, make_family_case
from metanas_med.errors import DataError


def digests(root: Path) -> dict[str, str]:
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(root.rglob("*")) if f.is_file()}


def test_held_out_organs_do_not_train_and_are_made_of_what_trains() -> None:
    assert len({organ.name for organ in (*TRAINING, *HELD_OUT)}) == len(TRAINING) + len(HELD_OUT) and len(TRAINING) >= 16
    pairs = {(organ.grain, organ.contrast) for organ in TRAINING}
    for part, values in (("grain", GRAINS), ("contrast", CONTRASTS), ("shape", SHAPES)):
        assert {getattr(organ, part) for organ in TRAINING} == set(values)
    for organ in HELD_OUT:
        assert (organ.grain, organ.contrast) not in pairs


def test_one_seed_gives_the_same_bytes_whatever_else_is_made(tmp_path: Path) -> None:
    make_family(tmp_path / "a", TRAINING[:2], num_cases=2, seed=1)
    make_family(tmp_path / "b", TRAINING[1:2], num_cases=1, seed=1)
    make_family(tmp_path / "c", TRAINING[1:2], num_cases=1, seed=2)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    scans = [name for name in b if name.endswith(".nii.gz")]
    assert len(scans) == 2
    for name in scans:
        assert a[name] == b[name] != c[name]


def test_layout_is_that_of_msd(tmp_path: Path) -> None:
    (folder,) = make_family(tmp_path, HELD_OUT[:1], num_cases=2)
    content = json.loads((folder / "dataset.json").read_text())
    assert folder.name == content["name"] == HELD_OUT[0].name and content["labels"] == {"0": "background", "1": "organ"}
    assert len(content["training"]) == content["numTraining"] == 2
    for case in content["training"]:
        image, label = (Nifti1Image.from_filename(folder / case[part]) for part in ("image", "label"))
        assert image.shape == label.shape == SHAPE
        np.testing.assert_array_equal(image.affine, np.eye(4))
    with pytest.raises(DataError, match="already holds a data set"):
        make_family(tmp_path, HELD_OUT[:1], num_cases=2)
    make_family(tmp_path, HELD_OUT[:1], num_cases=1, overwrite=True)


@pytest.mark.parametrize("organ", [*TRAINING, *HELD_OUT], ids=lambda organ: organ.name)
def test_every_scan_shows_one_or_two_targets(organ) -> None:
    for case in range(4):
        image, label = make_family_case(organ, np.random.default_rng(case))
        assert image.shape == label.shape == SHAPE and image.dtype == np.int16 and label.dtype == np.uint8
        assert image.min() >= 0 and image.std() > 10
        assert set(np.unique(label)) == {0, 1}
        assert 80 < label.sum() < 1800  # objects are about 8 voxels across
        pieces: Any = label_pieces(label)
        assert 1 <= pieces[1] <= 4


def test_brightness_does_not_find_the_organ() -> None:
    """The best threshold of every scan, chosen with its label, still finds look-alikes."""
    organ = HELD_OUT[0]
    best = []
    for case in range(6):
        image, label = make_family_case(organ, np.random.default_rng(case))
        dice = [2 * (label[image > t]).sum() / ((image > t).sum() + label.sum()) for t in np.percentile(image, range(50, 100, 2))]
        best.append(max(dice))
    assert np.mean(best) < 0.6
