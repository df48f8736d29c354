from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.nifti import check_pair, read_geometry, read_image, read_label, write_label
from metanas_med.data.orientation import Orientation, to_canonical
from metanas_med.errors import DataError


def rotation(degrees: float, axis: int) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(3)
    i, j = [other for other in range(3) if other != axis]
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def all_affines() -> list[np.ndarray]:
    """Return all 48 flips and permutations as anisotropic and slightly oblique affines."""
    oblique = rotation(11, 0) @ rotation(-17, 1) @ rotation(8, 2)
    affines = []
    for axes, signs in product(permutations(range(3)), product((-1, 1), repeat=3)):
        linear = np.zeros((3, 3))
        for column, (row, sign) in enumerate(zip(axes, signs, strict=True)):
            linear[row, column] = sign
        affine = np.eye(4)
        affine[:3, :3] = oblique @ linear @ np.diag([0.7, 1.3, 5.0])
        affine[:3, 3] = [-30, 12.5, 900]
        affines.append(affine)
    return affines


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", np.int32, np.uint16])
def test_integers_keep_their_type_and_values(tmp_path, save_nifti, dtype):
    array = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype)
    image, affine = read_image(save_nifti(tmp_path / "a.nii.gz", array, np.diag([1, 2, 3, 1])))
    assert image.shape == (1, 5, 6, 7) and image.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image[0], array)
    np.testing.assert_array_equal(affine, np.diag([1.0, 2, 3, 1]))


def test_floats_and_scaled_integers_become_float32(tmp_path, save_nifti):
    array = np.random.default_rng(0).normal(size=(4, 5, 6))
    image, _ = read_image(save_nifti(tmp_path / "f.nii", array))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0], array, rtol=1e-6)
    scaled = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    scaled.header.set_slope_inter(2.5, -3)
    nib.save(scaled, tmp_path / "s.nii.gz")
    image, _ = read_image(tmp_path / "s.nii.gz")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0], np.asarray(nib.load(tmp_path / "s.nii.gz").dataobj))  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 5, 6, 1, 3), (4, 5, 6, 3, 1)])
def test_the_last_axis_becomes_the_channels(tmp_path, save_nifti, shape):
    array = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    image, _ = read_image(save_nifti(tmp_path / "c.nii.gz", array))
    np.testing.assert_array_equal(image, np.moveaxis(array.reshape(4, 5, 6, 3), -1, 0))


def test_singleton_axes_become_one_channel_and_nifti2_is_read(tmp_path, save_nifti):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    assert read_image(save_nifti(tmp_path / "one.nii.gz", array))[0].shape == (1, 2, 3, 4)
    nib.save(nib.Nifti2Image(array[..., 0], np.eye(4)), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "two.nii.gz")[0][0], array[..., 0])
    with pytest.raises(DataError, match="shape"):
        read_image(save_nifti(tmp_path / "six.nii.gz", np.zeros((2, 3, 4, 2, 2), np.uint8)))
    with pytest.raises(DataError, match="shape"):
        read_image(save_nifti(tmp_path / "flat.nii.gz", np.zeros((2, 3), np.uint8)))


def test_every_bit_flip_is_refused_or_has_no_effect(tmp_path, save_nifti, caplog):
    array = np.random.default_rng(0).integers(0, 500, (9, 9, 9)).astype(np.int16)
    path = save_nifti(tmp_path / "whole.nii.gz", array, np.diag([1, 2, 3, 1]))
    content = path.read_bytes()
    image, affine = read_image(path)
    random = np.random.default_rng(1)
    messages = []
    positions = [*range(0, 40), *random.integers(0, len(content), 160).tolist(), *range(len(content) - 8, len(content))]
    for position in positions:
        broken = bytearray(content)
        broken[position] ^= 1 << int(random.integers(8))
        (tmp_path / "broken.nii.gz").write_bytes(broken)
        try:
            found, found_affine = read_image(tmp_path / "broken.nii.gz")
        except DataError as error:
            messages.append(str(error))
        else:  # gzip's own header (time, file name) and unused Huffman codes do not affect voxels
            np.testing.assert_array_equal(found, image)
            np.testing.assert_array_equal(found_affine, affine)
    assert len(messages) >= len(positions) - 40
    assert all("broken.nii.gz" in message and len(message.splitlines()) <= 2 for message in messages)
    assert caplog.records == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_every_truncation_is_refused(tmp_path, save_nifti, suffix):
    array = np.random.default_rng(0).integers(0, 500, (9, 9, 9)).astype(np.int16)
    content = save_nifti(tmp_path / f"whole{suffix}", array).read_bytes()
    broken = tmp_path / f"broken{suffix}"
    for kept in [0, 1, 5, 17, 100, 347, 348, 360, len(content) // 2, len(content) - 9, len(content) - 4, len(content) - 1]:
        broken.write_bytes(content[:kept])
        with pytest.raises(DataError, match="broken"):
            read_image(broken)


def test_missing_files_other_formats_and_pairs_are_refused(tmp_path, save_nifti):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii.gz").write_text("hello" * 200)
    (tmp_path / "zipped.nii.gz").write_bytes(gzip.compress(b"hello" * 200))
    for name in ("text.nii.gz", "zipped.nii.gz"):
        with pytest.raises(DataError, match="not a NIfTI"):
            read_image(tmp_path / name)
    nib.save(nib.Nifti1Pair(np.zeros((2, 3, 4), np.uint8), np.eye(4)), tmp_path / "pair.img")
    with pytest.raises(DataError):
        read_image(tmp_path / "pair.hdr")


@pytest.mark.parametrize("shape", [(30000, 30000, 30000), (2000, 1000, 1000)])
def test_a_header_that_claims_too_many_voxels_is_refused_before_reading(tmp_path, save_nifti, shape):
    path = save_nifti(tmp_path / "huge.nii", np.zeros((2, 3, 4), np.int16))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array(shape, dtype="<i2").tobytes()  # dim[1..3]
    path.write_bytes(content)
    zipped = tmp_path / "huge.nii.gz"
    zipped.write_bytes(gzip.compress(bytes(content)))
    for file in (path, zipped):
        with pytest.raises(DataError, match="header claims"):
            read_image(file)
    with pytest.raises(DataError, match="at most 10"):
        read_image(save_nifti(tmp_path / "small.nii.gz", np.zeros((2, 3, 4), np.int16)), max_voxels=10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_counted(tmp_path, save_nifti, value):
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3:5] = value
    with pytest.raises(DataError, match="found 2 voxels of 120"):
        read_image(save_nifti(tmp_path / "nan.nii.gz", array))
    with pytest.raises(DataError, match="found 2 voxels"):
        read_label(save_nifti(tmp_path / "nan.nii.gz", array))


@pytest.mark.parametrize("linear", [np.diag([1, 0, 1]), [[1, 1, 0], [1, 1, 0], [0, 0, 1]], np.diag([1, np.nan, 1])])
def test_an_affine_without_volume_is_refused(tmp_path, save_nifti, linear):
    affine = np.eye(4)
    path = save_nifti(tmp_path / "flat.nii", np.zeros((4, 5, 6), np.int16), affine)
    content = bytearray(path.read_bytes())
    affine[:3, :3] = linear
    content[280:328] = affine[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(content)
    with pytest.raises(DataError, match="the affine (is singular|holds)"):
        read_image(path)


@pytest.mark.parametrize("unit, name", [("meter", "metres"), ("micron", "micrometres")])
def test_lengths_in_another_unit_are_refused(tmp_path, unit, name):
    for given in ("mm", "unknown", unit):
        image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))  # type: ignore[attr-defined]
        image.header.set_xyzt_units(given)
        nib.save(image, tmp_path / f"{given}.nii.gz")  # type: ignore[attr-defined]
    read_image(tmp_path / "mm.nii.gz")
    read_image(tmp_path / "unknown.nii.gz")
    with pytest.raises(DataError, match=f"lengths in {name}, expected millimetres"):
        read_image(tmp_path / f"{unit}.nii.gz")


def test_labels_are_whole_numbers_up_to_255(tmp_path, save_nifti):
    label = np.zeros((3, 4, 5), np.float32)
    label[1] = 255
    found, _ = read_label(save_nifti(tmp_path / "l.nii.gz", label))
    assert found.dtype == np.uint8 and found.shape == (3, 4, 5) and found[1].min() == 255
    for value in (256.0, -1.0, 0.5):
        label[2] = value
        with pytest.raises(DataError, match=r"label (values|voxels)"):
            read_label(save_nifti(tmp_path / "l.nii.gz", label))
    with pytest.raises(DataError, match="three axes"):
        read_label(save_nifti(tmp_path / "l.nii.gz", np.zeros((3, 4, 5, 2), np.uint8)))


def test_pairs_must_share_shape_and_affine():
    affine = np.diag([0.5, 0.5, 5, 1])
    check_pair((2, 8, 8, 4), affine, (8, 8, 4), affine + 1e-5)
    with pytest.raises(DataError, match=r"\(8, 8, 4\).*seg.*\(8, 4, 8\)"):
        check_pair((8, 8, 4), affine, (8, 4, 8), affine, ("scan", "seg"))
    for change in (np.diag([0.1, 0, 0, 0]), np.eye(4)[:, ::-1] * 0.2):
        with pytest.raises(DataError, match="mm apart"):
            check_pair((8, 8, 4), affine, (8, 8, 4), affine + change * [[1], [1], [1], [0]])


@pytest.mark.parametrize("affine", all_affines())
def test_canonical_axes_are_right_anterior_superior_and_can_be_undone(affine):
    array = np.random.default_rng(0).integers(0, 1000, (2, 4, 5, 6))
    canonical, new_affine, orientation = to_canonical(array, affine)
    assert nib.aff2axcodes(new_affine) == ("R", "A", "S")  # type: ignore[attr-defined]
    assert (np.diag(new_affine)[:3] > 0).all()
    # every voxel stays where it was in mm
    for index in [(0, 0, 0), (3, 2, 1), *np.ndindex(2, 2, 2)]:
        if (np.array(index) >= canonical.shape[1:]).any():
            continue
        source = np.rint(np.linalg.inv(affine) @ new_affine @ [*index, 1])[:3].astype(int)
        np.testing.assert_array_equal(canonical[(slice(None), *index)], array[(slice(None), *source)])
    np.testing.assert_array_equal(orientation.undo(canonical), array)
    np.testing.assert_array_equal(orientation.undo(canonical[0]), array[0])
    # nibabel's own reorientation agrees
    oracle = nib.as_closest_canonical(nib.Nifti1Image(array[0].astype(np.int32), affine))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.asarray(oracle.dataobj), canonical[0])
    np.testing.assert_allclose(oracle.affine, new_affine, atol=1e-9)


def test_an_orientation_survives_json():
    _, _, orientation = to_canonical(np.zeros((2, 3, 4)), all_affines()[13])
    tree = json.loads(json.dumps(asdict(orientation)))
    assert Orientation(tuple(tree["axes"]), tuple(tree["flips"])) == orientation


@pytest.mark.parametrize("number", range(0, 48, 5))
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_labels_are_written_in_the_scans_own_geometry(tmp_path, number, suffix):
    affine = all_affines()[number]
    scan = nib.Nifti1Image(np.zeros((4, 5, 6, 2), ">i2"), affine)
    scan.set_qform(affine, code=2)
    scan.set_sform(affine, code=3)
    scan.header["descrip"] = b"name of a patient"
    scan.header.set_slope_inter(2, 1)
    like = tmp_path / "scan.nii.gz"
    nib.save(scan, like)
    labels = np.random.default_rng(0).integers(0, 5, (4, 5, 6)).astype(np.uint8)
    canonical, _, orientation = to_canonical(labels, affine)
    out = tmp_path / f"out{suffix}"
    write_label(out, orientation.undo(canonical), like)
    found, found_affine = read_label(out)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(found_affine, read_image(like)[1])
    written, source = (nib.Nifti1Image.from_filename(path) for path in (out, like))
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    for form in ("get_sform", "get_qform"):
        expected, got = (getattr(image.header, form)(coded=True) for image in (source, written))
        assert expected[1] == got[1]
        np.testing.assert_array_equal(expected[0], got[0])
    assert written.shape == (4, 5, 6) == read_geometry(like)[0][:3] and written.get_data_dtype() == np.uint8
    assert b"patient" not in out.read_bytes() and b"patient" not in written.header.binaryblock


@pytest.mark.parametrize(("qform_code", "sform_code"), [(0, 0), (1, 0), (0, 2)])
def test_form_codes_are_preserved(tmp_path, qform_code, sform_code):
    content = bytearray(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([-2, 2, 3, 1])).to_bytes())
    content[252:256] = np.array(
        [qform_code, sform_code], dtype="<i2"
    ).tobytes()  # nibabel itself would set codes that match the affine
    like = tmp_path / "scan.nii"
    like.write_bytes(content)
    write_label(tmp_path / "out.nii.gz", np.ones((3, 4, 5), np.uint8), like)
    header = nib.Nifti1Image.from_filename(tmp_path / "out.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (qform_code, sform_code)
    np.testing.assert_array_equal(read_geometry(tmp_path / "out.nii.gz")[1], read_geometry(like)[1])


def test_an_invalid_label_map_writes_nothing(tmp_path: Path, save_nifti):
    like = save_nifti(tmp_path / "scan.nii.gz", np.zeros((3, 4, 5), np.int16))
    for labels in (np.zeros((3, 5, 4), np.uint8), np.zeros((3, 4, 5), np.float32)):
        with pytest.raises(DataError, match="expected"):
            write_label(tmp_path / "out.nii.gz", labels, like)
    with pytest.raises(DataError, match="name"):
        write_label(tmp_path / "out.mha", np.zeros((3, 4, 5), np.uint8), like)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
    write_label(tmp_path / "a.nii.gz", np.ones((3, 4, 5), np.uint8), like)
    write_label(tmp_path / "b.nii.gz", np.ones((3, 4, 5), np.uint8), like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
