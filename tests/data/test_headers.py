"""Headers that other readers repair without a word: refused, or noted; and label values that were scaled on writing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.nifti import read_geometry, read_image, read_label
from metanas_med.errors import DataError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 3, 100], [0, 0, 0, 1]])
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE
#: offset and format of header fields of NIfTI-1
FIELDS = {
    "dim0": (40, "<h"),
    "bitpix": (72, "<h"),
    "qfac": (76, "<f"),
    "pixdim1": (80, "<f"),
    "pixdim2": (84, "<f"),
    "pixdim3": (88, "<f"),
    "vox_offset": (108, "<f"),
    "scl_slope": (112, "<f"),
    "scl_inter": (116, "<f"),
    "qform_code": (252, "<h"),
    "sform_code": (254, "<h"),
}


def write(path: Path, sform: Any = AFFINE, qform: Any = AFFINE, **fields: float) -> Path:
    """Write a scan with both forms (None: code 0), then change fields of its header as they are stored."""
    image = nib.Nifti1Image(np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4), AFFINE)
    image.header.set_sform(AFFINE if sform is None else sform, 0 if sform is None else 1)
    image.header.set_qform(AFFINE if qform is None else qform, 0 if qform is None else 1)
    content = bytearray(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_bytes())
    for field, value in fields.items():
        offset, kind = FIELDS[field]
        struct.pack_into(kind, content, offset, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("axis", ["pixdim1", "pixdim2", "pixdim3"])
@pytest.mark.parametrize("forms", [{}, {"sform": None}, {"qform": None}, {"sform": None, "qform": None}])
def test_a_voxel_size_of_zero_is_refused(tmp_path: Path, axis: str, forms: dict[str, Any]) -> None:
    path = write(tmp_path / "a.nii", **forms, **{axis: 0.0})
    for read in (read_image, read_label, read_geometry):
        with pytest.raises(DataError, match=r"a\.nii: found voxel sizes \[.*\] mm \(pixdim\), expected none to be 0"):
            read(path)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"bitpix": 8}, "found 8 bits per voxel for data type 4, expected 16"),
        ({"vox_offset": 0}, "the voxels start at byte 0"),
        ({"vox_offset": 352.5}, "the voxels start at byte 352.5"),
        ({"vox_offset": float("nan")}, "the voxels start at byte nan"),
        ({"scl_slope": float("inf")}, "found scl_slope inf"),
        ({"sform_code": 9}, "found sform_code 9, expected 0 to 5"),
        ({"qform_code": -3}, "found qform_code -3, expected 0 to 5"),
        ({"dim0": 0x0300}, "no byte order"),
    ],
)
def test_what_has_no_certain_meaning_is_refused(tmp_path: Path, fields: dict[str, float], told: str) -> None:
    assert read_image(write(tmp_path / "whole.nii"))[0].shape == (1, 6, 5, 4)
    with pytest.raises(DataError, match=told):
        read_image(write(tmp_path / "a.nii", **fields))


def test_a_file_that_gives_no_number_of_bits_is_read(tmp_path: Path) -> None:
    with_bits, without = (read_image(write(tmp_path / f"{bits}.nii", bitpix=bits))[0] for bits in (16, 0))
    np.testing.assert_array_equal(with_bits, without)


@pytest.mark.parametrize(
    ("forms", "fields", "notes"),
    [
        ({}, {}, []),
        ({"sform": None}, {}, []),
        ({"qform": None}, {}, []),
        ({"sform": AFFINE + np.eye(4) * 0.001}, {}, []),
        ({"sform": None}, {"qfac": 0}, []),  # the standard reads 0 as 1
        ({"sform": None, "qform": None}, {}, ["no orientation in the header: left and right may be swapped"]),
        ({"qform": MIRRORED}, {}, ["sform and qform disagree: sform taken"]),
        ({"sform": AFFINE + np.eye(4, k=3) * 12}, {}, ["sform and qform disagree: sform taken"]),
        ({"sform": None}, {"pixdim1": -2}, ["a voxel size in the header is negative: taken as positive"]),
        ({"qform": None}, {"pixdim1": -2}, []),  # no geometry comes from it
        ({"sform": None}, {"qfac": 7}, ["qfac (pixdim[0]) is neither 1 nor -1: taken as 1, an axis may be mirrored"]),
        ({}, {"scl_slope": 0, "scl_inter": -1024}, ["scl_slope is 0: scl_inter has no effect"]),
        ({}, {"scl_slope": 0, "scl_inter": 0}, []),
    ],
)
def test_what_a_header_leaves_open_is_noted(
    tmp_path: Path, forms: dict[str, Any], fields: dict[str, float], notes: list[str], cache_dir: Path
) -> None:
    root, training = tmp_path / "Toy", []
    for number in range(4):
        write(root / f"imagesTr/c{number}.nii", **(forms if number else {}), **(fields if number else {}))
        affine = read_geometry(root / f"imagesTr/c{number}.nii")[1]
        (root / "labelsTr").mkdir(exist_ok=True)
        label = np.zeros((6, 5, 4), np.uint8)
        label[1:3, 1:3, 1:3] = 1
        image = nib.Nifti1Image(label, affine)
        if forms == {"sform": None, "qform": None}:
            image = nib.Nifti1Image(label, None)
            image.header.set_zooms((2, 2, 3))
        nib.save(image, root / f"labelsTr/c{number}.nii")
        training.append({"image": f"imagesTr/c{number}.nii", "label": f"labelsTr/c{number}.nii"})
    training = training[1:]
    tree = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "a"}, "training": training}
    (root / "dataset.json").write_text(json.dumps(tree))
    (row,) = prepare([root], cache_dir)
    expected = ["each file counts as a patient", *(f"3 case(s): {note}: c1, c2, c3" for note in notes)]
    for status in ("built", "fresh"):
        if status == "fresh":
            (row,) = prepare([root], cache_dir)
        told = [note for note in row.notes if "the same voxels" not in note]
        assert told == expected and row.status == status  # one line a data set
    assert {case.notes for case in open_cache(cache_dir / "Toy.h5").cases} == {tuple(notes)}


STORAGES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64)
HIGHEST = (1, 2, 3, 4, 5, 7, 10, 13, 30, 73, 104, 117, 200, 254, 255)


@pytest.mark.parametrize("stored", STORAGES)
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_labels_that_were_scaled_on_writing_are_those_that_were_written(tmp_path: Path, stored: Any, suffix: str) -> None:
    """Float labels under an integer header: nibabel chooses slope and intercept, as it does in many tools."""
    for highest in HIGHEST:
        labels = np.random.default_rng(highest).integers(0, highest + 1, (6, 5, 4)).astype(np.float64)
        labels.flat[:2] = 0, highest
        header = nib.Nifti1Header()
        header.set_data_dtype(stored)
        nib.save(nib.Nifti1Image(labels, AFFINE, header), tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(read_label(tmp_path / f"a.{suffix}")[0], labels)


def scaled(path: Path, stored: np.ndarray, slope: float, inter: float = 0.0) -> Path:
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("slope", [0.9, 0.6, 0.3, 0.11, 0.05, 0.0123, 1 / 255, 1e-4, -0.3, -1 / 255])
@pytest.mark.parametrize("inter", [0.0, 0.05, 3.0, 127.4])
def test_labels_within_half_a_step_are_rounded(tmp_path: Path, slope: float, inter: float) -> None:
    labels = np.arange(120).reshape(6, 5, 4) % 7
    stored = np.rint((labels - np.float32(inter)) / np.float32(slope)).astype(np.int32)
    np.testing.assert_array_equal(read_label(scaled(tmp_path / "a.nii", stored, slope, inter))[0], labels)


def test_labels_close_to_whole_numbers_are_rounded_and_others_refused(tmp_path: Path, save_nifti: Any) -> None:
    labels = (np.arange(120).reshape(6, 5, 4) % 4).astype(np.float64)
    for factor in (0.99998, 1.00003):
        for kind in (np.float32, np.float64):
            found, _ = read_label(save_nifti(tmp_path / "a.nii", (labels * factor).astype(kind)))
            np.testing.assert_array_equal(found, labels)
    found, _ = read_label(save_nifti(tmp_path / "a.nii", labels * 85.00001 - 4e-4))  # neither below 0 nor above 255
    np.testing.assert_array_equal(found, labels * 85)
    for off in (0.004, 0.02, 0.3, 0.5):
        with pytest.raises(
            DataError, match=r"found 120 label voxels that are not whole numbers; was the map resampled linearly\?"
        ):
            read_label(save_nifti(tmp_path / "a.nii", labels + off))
    ramp = np.linspace(0, 1, 120).reshape(6, 5, 4)  # resampled linearly, then stored as integers with a slope
    for kind in (np.uint8, np.int16):
        header = nib.Nifti1Header()
        header.set_data_dtype(kind)
        nib.save(nib.Nifti1Image(ramp, AFFINE, header), tmp_path / "a.nii")
        with pytest.raises(DataError, match="not whole numbers"):
            read_label(tmp_path / "a.nii")
    with pytest.raises(DataError, match="not whole numbers"):  # the rounding of floating point numbers is not half a slope
        read_label(scaled(tmp_path / "a.nii", (ramp * 2).astype(np.float32), 0.9))


def test_steps_that_may_have_merged_labels_are_refused(tmp_path: Path, make_msd: Any, cache_dir: Path) -> None:
    stored = (np.arange(120).reshape(6, 5, 4) % 3).astype(np.int16)
    for slope in (1.5, 2, -2, 80):
        with pytest.raises(DataError, match=rf"stored in steps of {abs(slope):g} \(scl_slope\), which may have merged"):
            read_label(scaled(tmp_path / "a.nii", stored, slope))
    np.testing.assert_array_equal(read_label(scaled(tmp_path / "a.nii", stored, 1, 3))[0], stored + 3)
    with pytest.raises(DataError, match="not whole numbers"):
        read_label(scaled(tmp_path / "a.nii", stored, 1, 0.5))
    root = make_msd()
    scaled(root / "labelsTr/case_1.nii.gz", np.zeros((10, 12, 8), np.int16), 2)
    with pytest.raises(BadCases, match="case_1.*stored in steps of 2"):
        prepare([root], cache_dir)
