"""Scans in other formats than NIfTI through the commands: prepare, predict and evaluate give what NIfTI gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.funcs import as_closest_canonical

from metanas_med.cli import main
from metanas_med.data.volumes import read_image
from metanas_med.engine.predict_scans import predict

from ..data.series import write_slice
from .shared import Refused

sitk: Any = pytest.importorskip("SimpleITK")
pytest.importorskip("nrrd")
pytest.importorskip("pydicom")


def as_series(folder: Path, scan: Path) -> Path:
    """Return ``folder`` after writing a NIfTI scan there as a series of slices; values are rounded to whole numbers."""
    image = sitk.ReadImage(str(scan))
    array, spacing = np.rint(sitk.GetArrayFromImage(image)), image.GetSpacing()
    axes = np.reshape(image.GetDirection(), (3, 3)).T
    normal = np.cross(axes[0], axes[1])
    slices = array if normal @ axes[2] > 0 else array[::-1]
    start = image.TransformIndexToPhysicalPoint((0, 0, 0 if normal @ axes[2] > 0 else len(array) - 1))
    for number, part in enumerate(slices):
        write_slice(
            folder / f"{number:03d}.dcm",
            part,
            np.array(start) + number * spacing[2] * normal,
            number,
            ImageOrientationPatient=[float(f"{x:.12g}") for x in (*axes[0], *axes[1])],
            PixelSpacing=[spacing[1], spacing[0]],
            RescaleIntercept=0,
            SeriesInstanceUID=f"1.2.{len(array)}.{array.shape[1]}",
        )
    return folder


@pytest.fixture
def scans(phantoms: Path, tmp_path: Path) -> dict[str, Path]:
    """One scan in each format, with whole numbers as values."""
    source = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0]
    loaded = nib.Nifti1Image.from_filename(source)
    base = tmp_path / "nifti" / "one.nii.gz"
    base.parent.mkdir()
    nib.save(nib.Nifti1Image(np.rint(loaded.get_fdata()).astype(np.int16), loaded.affine), base)
    image = sitk.ReadImage(str(base))
    found = {"nifti": base, "nrrd": tmp_path / "nrrd/one.nrrd", "mha": tmp_path / "mha/one.mha"}
    for kind in ("nrrd", "mha"):
        found[kind].parent.mkdir()
        sitk.WriteImage(image, str(found[kind]))
    return found | {"dicom": as_series(tmp_path / "dicom" / "one", base)}


def test_every_format_gives_the_label_map_of_nifti(tiny_model: Path, scans: dict[str, Path], tmp_path: Path) -> None:
    maps: dict[str, Any] = {}
    for kind, path in scans.items():
        np.testing.assert_array_equal(np.sort(read_image(path)[0], axis=None), np.sort(read_image(scans["nifti"])[0], axis=None))
        (written,) = predict(tiny_model, [path], tmp_path / "out" / kind)
        assert written.name == "one.nii.gz"
        image: Any = nib.Nifti1Image.from_filename(written)
        assert int(image.header["sform_code"]) > 0
        maps[kind] = as_closest_canonical(image)
        np.testing.assert_allclose(maps[kind].affine, maps["nifti"].affine, atol=1e-3)
        differ = np.asarray(maps[kind].dataobj) != np.asarray(maps["nifti"].dataobj)
        assert differ.mean() < 1e-3, kind  # canonical arrays are equal up to the rounding of the affine
    # folders of scans: each format is found, and a folder of folders of DICOM
    for kind in ("nrrd", "mha", "dicom"):
        (again,) = predict(tiny_model, [scans[kind].parent], tmp_path / "again" / kind)
        assert again.read_bytes() == (tmp_path / "out" / kind / "one.nii.gz").read_bytes()


def test_a_bad_series_stops_predict_before_anything_is_written(
    tiny_model: Path, scans: dict[str, Path], tmp_path: Path, refused: Refused
) -> None:
    (sorted(scans["dicom"].iterdir())[3]).unlink()
    shutil.move(scans["dicom"], tmp_path / "other")
    shown = refused("predict", tiny_model, scans["nrrd"], tmp_path / "other", "--out", tmp_path / "label_maps")
    assert "1 missing slice(s) between 002.dcm and 004.dcm" in shown and "1 of 2 scans cannot be segmented" in shown


def test_evaluate_reads_label_maps_of_every_format(scans: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    image = sitk.ReadImage(str(scans["nifti"]))
    labels = sitk.Cast(image > 100, sitk.sitkUInt8)
    for folder, suffix in (("truth", ".mha"), ("guess", ".nrrd")):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(labels, str(tmp_path / folder / f"one{suffix}"))
    command = [
        "evaluate",
        "--predictions",
        str(tmp_path / "guess"),
        "--labels",
        str(tmp_path / "truth"),
        "--out",
        str(tmp_path / "scores"),
    ]
    assert main(command) == 0 and "1.000" in capsys.readouterr().out
