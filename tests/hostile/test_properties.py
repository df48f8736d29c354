"""Properties of the readers over drawn input: what is written is read back exactly, and damage is refused or has no effect."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from metanas_med.data.cached import open_cache
from metanas_med.data.cards import read_card
from metanas_med.data.dataset import case_name, path_inside, survey_dataset
from metanas_med.data.nifti import read_geometry, read_image, read_label, write_label
from metanas_med.data.orientation import to_canonical
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.settings import Settings, load_settings
from metanas_med.errors import ConfigError, DataError, UserError
from metanas_med.parse import Unreadable, brief, parse_json, parse_yaml

from . import cache_faults, nifti_faults
from .made import GRID, make_set, tree_of

FEW = settings(derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=[*HealthCheck])  # type: ignore
MORE = settings(FEW, max_examples=80)

DTYPES = ["u1", "i1", "<i2", ">i2", "<u2", "<i4", ">i4", "<f4", ">f4", "<f8"]
SLOPES = st.sampled_from([1.0, 2.0, 0.5, -1.0, 0.1, 1e-3, 37.5])
KEYS = st.sampled_from(
    ["training", "labels", "modality", "test", "name", "channel_names", "description", "image", "label", "0", "1", "x"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["./imagesTr/case_0.nii.gz", "..", "/etc"])
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder: pytest's own is shared by all examples of a test."""
    with tempfile.TemporaryDirectory(prefix="property-") as folder:
        yield Path(folder)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Return a random orientation: axes in any order and direction, oblique up to 17 degrees, anisotropic."""
    axes, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    turn, small = np.zeros((3, 3)), draw(st.tuples(*[st.floats(-0.3, 0.3)] * 3))
    turn[list(axes), range(3)] = signs
    for angle, (one, other) in zip(small, ((0, 1), (0, 2), (1, 2)), strict=True):
        step = np.eye(3)
        step[[one, one, other, other], [one, other, one, other]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = step @ turn
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(draw(st.tuples(*[st.floats(0.3, 6)] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return affine


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Return an array (X, Y, Z) or (X, Y, Z, C) of any type, and an affine."""
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3)) + draw(st.sampled_from([(), (2,), (3,)]))
    dtype, random = np.dtype(draw(st.sampled_from(DTYPES))), np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "f":
        return (random.normal(size=shape) * draw(st.sampled_from([1e-6, 1.0, 1e6]))).astype(dtype), draw(affines())
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype=dtype.newbyteorder("="), endpoint=True).astype(dtype), draw(
        affines()
    )


@FEW
@given(images(), SLOPES, st.floats(-2000, 2000), st.sampled_from([".nii", ".nii.gz"]), st.booleans())
def test_what_nibabel_writes_is_read_as_nibabel_reads_it(case: Any, slope: float, inter: float, suffix: str, two: bool) -> None:
    array, affine = case
    header = (nib.Nifti2Header if two else nib.Nifti1Header)(endianness=">" if array.dtype.byteorder == ">" else "<")
    image = (nib.Nifti2Image if two else nib.Nifti1Image)(array, affine, header, dtype=array.dtype)
    if slope != 1 and array.dtype.kind != "f":
        image.header.set_slope_inter(slope, inter)
    with scratch() as folder:
        nib.save(image, folder / f"a{suffix}")
        found, where = read_image(folder / f"a{suffix}")
        oracle: Any = nib.load(folder / f"a{suffix}")
        assert read_geometry(folder / f"a{suffix}")[0] == array.shape
        expected = np.asarray(oracle.dataobj).reshape(array.shape)
    channels = expected[np.newaxis] if expected.ndim == 3 else np.moveaxis(expected, -1, 0)
    np.testing.assert_array_equal(found, channels.astype(found.dtype))
    assert found.dtype == np.float32 or found.dtype.kind in "iu"
    np.testing.assert_allclose(where, oracle.affine, atol=1e-6)


@FEW
@given(images())
def test_canonical_axes_are_exact_and_can_be_undone(case: Any) -> None:
    array, affine = case
    image = array[np.newaxis] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    turned, canonical, orientation = to_canonical(image, affine)
    np.testing.assert_array_equal(orientation.undo(turned), image)
    np.testing.assert_array_equal(orientation.apply(orientation.undo(turned[0])), turned[0])
    oracle: Any = nib.as_closest_canonical(nib.Nifti1Image(image[0].astype(np.float64), affine))
    np.testing.assert_array_equal(np.asarray(oracle.dataobj), turned[0].astype(np.float64))
    np.testing.assert_allclose(oracle.affine, canonical, atol=1e-6)


@FEW
@given(images(), st.integers(0, 2**32), st.sampled_from([".nii", ".nii.gz"]))
def test_label_maps_are_written_and_read_back_exactly(case: Any, seed: int, suffix: str) -> None:
    array, affine = case
    labels = np.random.default_rng(seed).integers(0, 256, array.shape[:3]).astype(np.uint8)
    with scratch() as folder:
        nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), folder / "scan.nii.gz")
        write_label(folder / f"out{suffix}", labels, folder / "scan.nii.gz")
        found, where = read_label(folder / f"out{suffix}")
        np.testing.assert_array_equal(found, labels)
        np.testing.assert_array_equal(where, read_image(folder / "scan.nii.gz")[1])


CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)


@MORE
@given(CHANGES, st.booleans())
def test_changed_bytes_of_a_zipped_scan_are_refused_or_have_no_effect(changes: list[tuple[float, int]], cut: bool) -> None:
    content = bytearray(gzip.compress(nifti_faults.content_of(), mtime=0))
    for place, mask in changes:
        content[int(place * len(content))] ^= mask
    broken = bytes(content[: int(changes[0][0] * len(content))] if cut else content)
    with scratch() as folder:
        (folder / "case.nii.gz").write_bytes(broken)
        try:
            found = nifti_faults.read(folder / "case.nii.gz")
        except DataError as error:
            assert "case.nii.gz" in str(error)
        else:
            assert nifti_faults.same()(found)


@MORE
@given(
    st.binary(max_size=600),
    st.sampled_from([b"", nifti_faults.content_of()[:348], nifti_faults.content_of(two=True)[:540], b"\x1f\x8b\x08"]),
)
def test_noise_is_no_scan(noise: bytes, start: bytes) -> None:
    assume(len(noise) != len(nifti_faults.content_of()) - 348)
    with scratch() as folder:
        (folder / "case.nii").write_bytes(start + noise)
        try:
            nifti_faults.read(folder / "case.nii")
        except DataError as error:
            assert "case.nii" in str(error)
        else:
            raise AssertionError("noise was read as a scan")


@FEW
@given(TREES, KEYS | st.none())
def test_any_dataset_json_gives_a_data_set_or_one_error(tree: Any, key: str | None) -> None:
    with scratch() as folder:
        root = make_set(folder)
        text = json.dumps(tree if key is None else {**tree_of(), key: tree})
        (root / "dataset.json").write_text(text)
        try:
            dataset, problems = survey_dataset(root)
        except DataError as error:
            assert "dataset.json" in str(error) and len(str(error).splitlines()) <= 2
            return
        for case in (*dataset.cases, *dataset.unlabelled):
            assert case.image.resolve().is_relative_to(root.resolve())
        assert all(isinstance(name, str) and 0 < value < 256 for value, name in dataset.labels.items())
        assert all(len(problem.problem) < 600 for problem in problems)


@MORE
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "link", "~", "C:", "\0", "in"]), max_size=8).map("/".join)
)
def test_no_path_of_a_data_set_leaves_its_folder(text: str) -> None:
    with scratch() as folder:
        root = folder / "Toy"
        (root / "in").mkdir(parents=True)
        (root / "link").symlink_to("/etc")
        (root / "in" / "up").symlink_to("..")
        assert "/" not in case_name(text)
        try:
            path = path_inside(root, text)
        except DataError:
            return
        assert path.resolve().is_relative_to(root.resolve())


SETTINGS = st.sampled_from(
    [
        "space",
        "learner",
        "adapt",
        "meta",
        "features",
        "tasks",
        "plan",
        "seed",
        "name",
        "lr",
        "steps",
        "base_width",
        "nodes",
        "shots",
    ]
)


@MORE
@given(
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SETTINGS | st.text(max_size=4), inner, max_size=4),
        max_leaves=8,
    )
)
def test_any_settings_give_settings_or_one_error(tree: Any) -> None:
    with scratch() as folder:
        (folder / "given.yaml").write_text(json.dumps(tree))
        try:
            assert isinstance(load_settings(folder / "given.yaml", []), Settings)
        except ConfigError as error:
            assert "given.yaml" in str(error) and len(str(error)) < 1500


@MORE
@given(st.text(max_size=80) | st.text(alphabet="{}[]&*!:,-?'\"#|> \n\t0123456789abc.%@`~=<", max_size=80), st.binary(max_size=40))
def test_any_text_is_read_or_refused_as_yaml_and_json(text: str, noise: bytes) -> None:
    for parse in (parse_yaml, parse_json):
        try:
            brief(parse(text))
        except Unreadable as error:
            assert len(str(error)) < 400
    with scratch() as folder:
        (folder / "given.yaml").write_bytes(noise)
        for read in (read_card, lambda path: load_settings(path, [])):
            try:
                read(folder / "given.yaml")
            except ConfigError as error:
                assert "given.yaml" in str(error)


@FEW
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_noise_is_no_checkpoint_and_no_cache(noise: bytes, tensors: bytes) -> None:
    with scratch() as folder:
        (folder / "last.json").write_bytes(noise)
        (folder / "last.safetensors").write_bytes(tensors)
        (folder / "Toy.h5").write_bytes(b"\x89HDF\r\n\x1a\n" * (len(noise) % 2) + noise)
        for read in (
            lambda: load_state(folder, "last", "meta-state"),
            lambda: MetaRun.load(folder),
            lambda: open_cache(folder / "Toy.h5"),
        ):
            try:
                read()
            except UserError as error:
                assert "last" in str(error) or "Toy.h5" in str(error)
            else:
                raise AssertionError("noise was read")


@FEW
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.tuples(*[st.tuples(st.integers(0, 8), st.integers(0, 9))] * 3))
def test_a_region_of_a_damaged_cache_is_refused_or_right(place: float, bit: int, bounds: Any) -> None:
    content = cache_faults.whole()
    slices = tuple(
        slice(min(low, size - 1), min(low, size - 1) + 1 + high) for (low, high), size in zip(bounds, GRID, strict=True)
    )
    with scratch() as folder:
        (folder / "Toy.h5").write_bytes(nifti_faults.flipped(content, int(place * len(content)), bit))
        try:
            cache = open_cache(folder / "Toy.h5")
            found = cache.image_region("case_0", slices)
            cache.close()
        except DataError as error:
            assert "Toy.h5" in str(error)
        else:
            np.testing.assert_array_equal(found, cache_faults.right_arrays()["images/case_0"][(slice(None), *slices)])
