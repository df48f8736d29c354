import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.funcs import as_closest_canonical
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import aff2axcodes

from metanas_med.data.phantom import make_case, make_msd_shapes, make_phantoms
from metanas_med.data.phantom_organs import ORGANS
from metanas_med.errors import DataError


def load(path: Path) -> Any:
    return Nifti1Image.from_filename(path)


def digests(root: Path) -> dict[str, str]:
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(root.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def decathlon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    make_phantoms(root, seed=3, num_cases=3)
    return root


def test_one_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_phantoms(tmp_path / name, seed=seed, num_cases=1, scale=0.5)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a if name.endswith(".gz") and "images" in name)


def test_a_case_does_not_depend_on_how_many_are_made(tmp_path: Path, decathlon: Path) -> None:
    make_phantoms(tmp_path, seed=3, num_cases=1)
    for folder in sorted(tmp_path.iterdir()):
        image = next((folder / "imagesTr").iterdir())
        assert image.read_bytes() == (decathlon / folder.name / "imagesTr" / image.name).read_bytes()


def test_layout_is_that_of_msd(decathlon: Path) -> None:
    folders = sorted(decathlon.iterdir())
    assert len(folders) == 10
    for folder in folders:
        content = json.loads((folder / "dataset.json").read_text())
        assert content["numTraining"] == len(content["training"]) == 3
        num_channels = len(content["modality"])
        for case in content["training"]:
            image, label = load(folder / case["image"]), load(folder / case["label"])
            assert image.shape[:3] == label.shape and image.shape[3:] == ((num_channels,) if num_channels > 1 else ())
            np.testing.assert_array_equal(image.affine, label.affine)
            np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
            values = np.asarray(label.dataobj)
            assert set(np.unique(values)) == {int(key) for key in content["labels"]}
            assert np.isfinite(np.asarray(image.dataobj)).all()
            assert max(image.shape[:3]) <= 50


def test_affines_vary_and_anatomy_stays(decathlon: Path) -> None:
    codes, oblique = set(), 0
    for folder in sorted(decathlon.iterdir()):
        centroids = []
        for file in sorted((folder / "labelsTr").iterdir()):
            label = load(file)
            codes.add(aff2axcodes(label.affine))
            oblique += bool((np.count_nonzero(np.abs(label.affine[:3, :3]) > 1e-3, axis=0) > 1).any())
            canonical = as_closest_canonical(label)
            organ = np.argwhere(np.asarray(canonical.dataobj) == 1)
            centroids.append(organ.mean(0) / canonical.shape)
        assert np.ptp(centroids, axis=0).max() < 0.3, folder.name
    assert len(codes) >= 6
    assert 5 <= oblique <= 25


def test_left_is_left(decathlon: Path) -> None:
    for file in sorted((decathlon / "Phantom06_Pair" / "labelsTr").iterdir()):
        label = load(file)
        values = np.asarray(label.dataobj)
        x_mm = [apply_affine(label.affine, np.argwhere(values == v))[:, 0].mean() for v in (1, 2)]
        assert x_mm[0] < x_mm[1] - 20


@pytest.mark.parametrize("organ", ORGANS, ids=lambda organ: organ.name)
def test_every_person_has_every_organ_and_no_threshold_finds_it(organ) -> None:
    best = []
    for case in range(8):
        image, label, _ = make_case(organ, np.random.default_rng([7, case]), scale=0.7)
        assert set(np.unique(label)) == set(range(len(organ.labels) + 1))
        channels = image[..., None] if image.ndim == 3 else image
        truth = label > 0
        bands = [
            2 * (truth & band).sum() / (truth.sum() + band.sum())
            for channel in np.moveaxis(channels, -1, 0)
            for low in np.percentile(channel, range(0, 100, 10))
            for high in (*np.percentile(channel, range(10, 100, 10)), channel.max())
            if low < high
            for band in [(channel >= low) & (channel <= high)]
        ]
        best.append(max(bands))
    assert np.mean(best) < 0.78, organ.name


def test_msd_shapes(tmp_path: Path) -> None:
    brain, vessels = make_msd_shapes(tmp_path, ("Task01", "Task08"), num_cases=1)
    image = load(next((brain / "imagesTr").iterdir()))
    assert image.shape == (240, 240, 155, 4) and image.get_data_dtype() == np.int16
    assert len(json.loads((brain / "dataset.json").read_text())["labels"]) == 4
    label = load(next((vessels / "labelsTr").iterdir()))
    assert label.shape[:2] == (512, 512) and 65 <= label.shape[2] <= 85
    np.testing.assert_allclose(label.header.get_zooms(), (0.8, 0.8, 5.0), rtol=1e-6)
    assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 2}


def test_unknown_true_shape_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'Task03'"):
        make_msd_shapes(tmp_path, ("Task3",))
