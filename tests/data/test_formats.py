"""NRRD, MHA and DICOM series: geometry and values as SimpleITK reads them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.dataset import read_dataset
from metanas_med.data.volumes import no_volume, read_geometry, read_image, read_label, write_label
from metanas_med.errors import DataError

from .series import AXIAL, OBLIQUE, SAGITTAL, write_series, write_slice

sitk: Any = pytest.importorskip("SimpleITK")
nrrd: Any = pytest.importorskip("nrrd")
pytest.importorskip("pydicom")

SHAPE = (9, 7, 5)
TURNED = np.array(OBLIQUE).reshape(2, 3)
ROTATION = np.stack([TURNED[0], TURNED[1], np.cross(TURNED[0], TURNED[1])], axis=1)
GEOMETRIES = {
    "plain": (np.eye(3), (1.0, 1.0, 1.0)),
    "oblique": (ROTATION, (0.7, 0.9, 3.1)),
    "left-handed": (np.diag([1.0, 1.0, -1.0]), (1.0, 1.0, 2.0)),
    "left-handed and oblique": (ROTATION @ np.diag([-1.0, 1, 1]), (0.5, 0.5, 5.0)),
    "permuted": (np.eye(3)[[2, 0, 1]], (1.2, 0.4, 2.2)),
}


def values(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


def corners(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([[*p, 1] for p in product(*((0, n - 1) for n in shape[:3]))], dtype=float)


def assert_as_simpleitk(path: Path, image: Any) -> None:
    """The reader's corners lie within 1e-4 mm of SimpleITK's (which are in LPS), and its values are the same."""
    array, affine = read_image(path)
    shape, header_affine = read_geometry(path)
    assert shape == array.shape[1:] == image.GetSize()
    ours = corners(shape) @ affine.T
    theirs = np.array([image.TransformIndexToPhysicalPoint([int(v) for v in p[:3]]) for p in corners(shape)])
    np.testing.assert_allclose(ours[:, :3], theirs * [-1, -1, 1], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(affine, header_affine)
    np.testing.assert_array_equal(array[0], sitk.GetArrayFromImage(image).T)


def made(geometry: str, array: np.ndarray) -> Any:
    directions, spacing = GEOMETRIES[geometry]
    image = sitk.GetImageFromArray(array.T)
    image.SetDirection(directions.ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin((-11.5, 30.25, 7.0))
    return image


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_files_are_read_as_simpleitk_reads_them(tmp_path: Path, geometry: str, packed: bool, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    image = made(geometry, values())
    sitk.WriteImage(image, str(path), packed)
    assert_as_simpleitk(path, image)


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE, SAGITTAL])
@pytest.mark.parametrize("gap", [2.5, 0.3])
def test_a_series_is_read_as_simpleitk_reads_it(tmp_path: Path, axes: Any, gap: float) -> None:
    folder = write_series(tmp_path / "series", values(shape=(5, 7, 9)), axes, gap)
    (folder / "README.txt").write_text("other files are passed over")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    assert_as_simpleitk(folder, reader.Execute())
    assert read_image(folder)[0].dtype == np.int16 and no_volume(folder) == ""


def test_each_slice_has_its_own_factor(tmp_path: Path) -> None:
    pixels = values(shape=(3, 4, 6))
    for number, part in enumerate(pixels):  # PET has a factor a slice
        write_slice(tmp_path / f"{number}", part, (0, 0, number), number, RescaleSlope=0.5 * (number + 1), RescaleIntercept=1)
    array, _ = read_image(tmp_path)
    want = pixels * np.array([0.5, 1, 1.5])[:, None, None] + 1
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[0], want.transpose(2, 1, 0), rtol=1e-6)


def test_spaces_of_nrrd_and_channels(tmp_path: Path) -> None:
    array, where = values(), {"space directions": np.diag([1.0, 2, 3]), "space origin": [1.0, 2, 3]}
    for space, signs in (("RAS", (1, 1)), ("left-anterior-superior", (-1, 1)), ("LPS", (-1, -1))):
        nrrd.write(str(tmp_path / "x.nrrd"), array, {"space": space, **where})
        affine = read_image(tmp_path / "x.nrrd")[1]
        np.testing.assert_allclose(affine, np.diag([*signs, 1, 1]) @ [[1, 0, 0, 1], [0, 2, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]])
    both, directions = np.stack([array, array + 1]), np.vstack([[np.nan] * 3, np.diag([1.0, 2, 3])])
    header = {"space": "RAS", "space directions": directions, "space origin": [0.0] * 3, "kinds": ["list", *["domain"] * 3]}
    nrrd.write(str(tmp_path / "two.nrrd"), both, header)
    np.testing.assert_array_equal(read_image(tmp_path / "two.nrrd")[0], both)
    assert read_geometry(tmp_path / "two.nrrd")[0] == (*SHAPE, 2)
    vector = sitk.Compose(made("plain", array), made("plain", array + 1))
    sitk.WriteImage(vector, str(tmp_path / "two.mha"))
    np.testing.assert_array_equal(read_image(tmp_path / "two.mha")[0], both)
    assert read_geometry(tmp_path / "two.mha")[0] == (*SHAPE, 2)
    with pytest.raises(DataError, match="a label map of 2 channels"):
        read_label(tmp_path / "two.mha")


def broken_header(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "nrrd cut": ("a.nrrd", lambda p: p.write_bytes(p.read_bytes()[:-40]), "truncated, damaged"),
    "nrrd long": ("a.nrrd", lambda p: p.write_bytes(p.read_bytes() + b"x"), "more bytes"),
    "nrrd text": ("a.nrrd", lambda p: p.write_text("hello"), "not NRRD"),
    "nrrd without space": ("a.nrrd", lambda p: nrrd.write(str(p), values()), "no 'space'"),
    "nrrd detached": ("a.nrrd", lambda p: broken_header(p, b"\n\n", b"\ndata file: other.raw\n\n"), "in another file"),
    "nrrd colours": (
        "a.nrrd",
        lambda p: nrrd.write(
            str(p),
            np.stack([values()] * 3),
            {
                "space": "LPS",
                "space directions": np.vstack([[np.nan] * 3, np.eye(3)]),
                "space origin": [0.0] * 3,
                "kinds": ["RGB-color", *["domain"] * 3],
            },
        ),
        "convert colours",
    ),
    "mha cut": ("a.mha", lambda p: p.write_bytes(p.read_bytes()[:-40]), "truncated, found"),
    "mha long": ("a.mha", lambda p: p.write_bytes(p.read_bytes() + b"x"), "damaged, found"),
    "mha text": ("a.mha", lambda p: p.write_text("hello"), "not an MHA file"),
    "mha detached": ("a.mha", lambda p: broken_header(p, b"LOCAL", b"other.raw"), "in another file"),
    "mha without spacing": ("a.mha", lambda p: broken_header(p, b"ElementSpacing", b"Elementspacing"), "no voxel size"),
    "mha 4D": ("a.mha", lambda p: sitk.WriteImage(sitk.JoinSeries([made("plain", values())] * 2), str(p)), "4 axes"),
    "mha not finite": (
        "a.mha",
        lambda p: sitk.WriteImage(made("plain", np.full(SHAPE, np.nan, np.float32)), str(p)),
        "315 voxels of 315 that are NaN",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_damaged_files_are_refused(tmp_path: Path, kind: str) -> None:
    name, spoil, expected = REFUSED[kind]
    path = tmp_path / name
    sitk.WriteImage(made("oblique", values()), str(path))
    spoil(path)
    with pytest.raises(DataError, match=expected) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["raw.nrrd", "packed.nrrd", "raw.mha", "packed.mha", "series"])
def test_no_damage_gives_another_error(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(7)
    path = file = tmp_path / kind
    if kind == "series":
        file = write_series(path, values(shape=(3, 7, 9))) / "IM007.dcm"
    else:
        sitk.WriteImage(made("oblique", values()), str(path), kind.startswith("packed"))
    content, num_refused = file.read_bytes(), 0
    for trial in range(120):
        spoiled = bytearray(content[: int(random.integers(len(content)))] if trial % 4 == 0 else content)
        for _ in range(int(random.integers(1, 6)) if spoiled else 0):
            spoiled[int(random.integers(min(600, len(spoiled))))] = int(random.integers(256))
        file.write_bytes(bytes(spoiled))
        for read in (read_image, read_geometry):
            try:
                read(path)
            except DataError:
                num_refused += 1
    assert num_refused > 60


def test_packed_files_that_end_early_are_refused(tmp_path: Path) -> None:
    for suffix in (".mha", ".nrrd"):
        path = tmp_path / f"a{suffix}"
        sitk.WriteImage(made("oblique", values()), str(path), True)
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(DataError, match="truncated"):
            read_image(path)


def one_more(folder: Path, **tags: Any) -> None:
    write_slice(folder / "more.dcm", values(shape=(7, 9)), (-20, 31.5, 7.25 + 5 * 2.5), 9, **tags)


SERIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: (f / "IM014.dcm").unlink(), "1 missing slice"),
    "doubled": (lambda f: shutil.copy(f / "IM014.dcm", f / "copy.dcm"), "1 doubled slice"),
    "uneven": (lambda f: write_slice(f / "IM028.dcm", values(shape=(7, 9)), (-20, 31.5, 18.7), 4), "uneven spacing"),
    "several series": (lambda f: one_more(f, SeriesInstanceUID="1.2.9"), "2 series"),
    "several frames of reference": (lambda f: one_more(f, FrameOfReferenceUID="1.2.9"), "2 frames of reference"),
    "several patients": (lambda f: one_more(f, PatientID="p2"), "2 patients"),
    "another size": (lambda f: write_slice(f / "m.dcm", values(shape=(7, 8)), (-20, 31.5, 19.75), 9), "Columns is 8"),
    "another orientation": (lambda f: one_more(f, ImageOrientationPatient=list(SAGITTAL)), "ImageOrientationPatient is"),
    "another spacing": (lambda f: one_more(f, PixelSpacing=[0.7, 1.2]), "PixelSpacing is"),
    "colour": (lambda f: one_more(f, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "a colour image"),
    "multi-frame": (lambda f: one_more(f, NumberOfFrames=4), "4 frames in one file.*dcm2niix"),
    "no position": (lambda f: one_more(f, ImagePositionPatient=None), "ImagePositionPatient is missing"),
    "compressed": (lambda f: one_more(f, syntax="1.2.840.10008.1.2.4.70", PixelData=b"\xfe\xff\x00\xe0\0\0\0\0"), "no decoder"),
    "cut": (lambda f: (f / "IM014.dcm").write_bytes((f / "IM014.dcm").read_bytes()[:-30]), "truncated or damaged"),
    "not DICOM": (lambda f: (f / "x.dcm").write_bytes(b"hello"), "not DICOM"),
    "structure set": (lambda f: one_more(f, Rows=None, Modality="RTSTRUCT"), "no image.*RTSTRUCT"),
}


@pytest.mark.parametrize("kind", SERIES)
def test_series_that_would_give_wrong_voxels_are_refused(tmp_path: Path, kind: str) -> None:
    spoil, expected = SERIES[kind]
    folder = write_series(tmp_path / "series", values(shape=(5, 7, 9)))
    read_image(folder)
    spoil(folder)
    with pytest.raises(DataError, match=expected) as caught:
        read_image(folder)
    assert str(folder) in str(caught.value)


def test_gantry_tilt_is_refused_and_names_the_converter(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "tilted", values(shape=(5, 7, 9)), shift=(0, 0.6, 0))
    with pytest.raises(DataError, match="gantry tilt.*13.5 degrees.*dcm2niix"):
        read_image(folder)


def test_a_series_is_no_data_set(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", values(shape=(2, 7, 9)))
    with pytest.raises(DataError, match="Found a DICOM series, which is one scan"):
        read_dataset(folder)


def test_an_absent_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = {"nrrd": ("x.nrrd", "formats"), "SimpleITK": ("x.mha", "formats"), "pydicom": ("series", "dicom")}
    write_series(tmp_path / "series", values(shape=(2, 7, 9)))

    def fail(name: str) -> Any:
        assert name in blocked
        raise ImportError(name)

    monkeypatch.setattr("metanas_med.data.formats.import_module", fail)
    for name, extra in blocked.values():
        with pytest.raises(DataError, match=rf"pip install 'metanas-med\[{extra}\]'"):
            read_image(tmp_path / name)


def test_a_data_set_may_mix_formats_and_label_maps_keep_the_geometry(tmp_path: Path, cache_dir: Path) -> None:
    root, label = tmp_path / "Mixed", np.zeros(SHAPE, np.uint8)
    label[2:5, 2:5, 1:4] = 1
    image = values(3)
    (root / "labelsTr").mkdir(parents=True)
    (root / "imagesTr").mkdir()
    sitk.WriteImage(made("oblique", image), str(root / "imagesTr/a.nrrd"))
    sitk.WriteImage(made("oblique", label), str(root / "labelsTr/a.mha"))
    sitk.WriteImage(made("left-handed", values(4)), str(root / "imagesTr/b.mha"))
    sitk.WriteImage(made("left-handed", label), str(root / "labelsTr/b.nii.gz"))
    write_series(root / "imagesTr/c", values(5, (5, 7, 9)), OBLIQUE)
    write_label(root / "labelsTr/c.nii.gz", label, root / "imagesTr/c")
    pairs = [
        {"image": f"imagesTr/{i}", "label": f"labelsTr/{j}"}
        for i, j in (("a.nrrd", "a.mha"), ("b.mha", "b.nii.gz"), ("c", "c.nii.gz"))
    ]
    tree = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "box"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(tree))
    (row,) = prepare([root], cache_dir)
    assert (row.cases, row.bad) == (3, ())
    cache = open_cache(cache_dir / "Mixed.h5")
    assert [c.name for c in cache.cases] == ["a", "b", "c"] and all(c.label_voxels == {1: 27} for c in cache.cases)
    assert prepare([root], cache_dir)[0].status == "fresh"
    written: Any = nib.Nifti1Image.from_filename(root / "labelsTr/c.nii.gz")
    np.testing.assert_allclose(written.affine, read_image(root / "imagesTr/c")[1], atol=1e-4)
    some = next(iter((root / "imagesTr/c").iterdir()))  # a slice that changes makes the cache old
    pixels = values(9, (7, 9))
    write_slice(some, pixels, (-20, 31.5, 7.25), 0, ImageOrientationPatient=list(OBLIQUE))
    assert prepare([root], cache_dir, skip_bad=True)[0].status == "built"
