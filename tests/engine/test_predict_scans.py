"""Predictions: arrays, probabilities, several models, volumes and parts, each against the label maps of ``predict``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.orientation import to_canonical
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.committee import Committee
from metanas_med.engine.model import Model
from metanas_med.engine.predict_scans import predict
from metanas_med.engine.volumes_table import volume_rows
from metanas_med.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def models(tiny_run: Path, phantom_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of both organs of a pair, from other scans, and one of an organ alone."""
    root, pair = tmp_path_factory.mktemp("models"), phantom_cache / "Phantom06_Pair.h5"
    for name, organ, draw in (("a", "all", 0), ("b", "all", 1), ("left", "left", 0)):
        s = AdaptSettings(organ=organ, shots=3, steps=1, seed=draw, evaluate=0, device="cpu", precision="float32", images=False)
        adapt(tiny_run, pair, root / name, s)
    return [root / "a", root / "b", root / "left"]


@pytest.fixture(scope="module")
def scans(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans: one as it is, one with turned axes, one oblique."""
    root = tmp_path_factory.mktemp("scans")
    files = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[:3]
    for number, path in enumerate(files):
        scan: Any = nib.load(path)  # type: ignore[attr-defined]
        array, affine = np.asarray(scan.dataobj), scan.affine.copy()
        if number == 1:
            array = array.transpose(2, 0, 1)[::-1]
            affine = affine[:, [2, 0, 1, 3]]
            affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
            affine[:3, 0] *= -1
        if number == 2:
            c, s = np.cos(0.2), np.sin(0.2)
            affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
        nib.save(nib.Nifti1Image(array, affine), root / path.name)  # type: ignore[attr-defined]
    return root


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def test_an_array_is_segmented_as_its_file(models: list[Path], scans: Path, tmp_path: Path) -> None:
    model = Model.load(models[0], "cpu")
    for path, target in zip(sorted(scans.iterdir()), predict(model, [scans], tmp_path / "maps"), strict=True):
        scan: Any = nib.load(path)  # type: ignore[attr-defined]
        for array in (np.asarray(scan.dataobj), np.asarray(scan.dataobj, dtype=np.float64)[np.newaxis]):
            found = model.segment_array(array, scan.affine)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, values(target))
    array, affine = np.zeros((4, 4, 4)), np.eye(4)
    for bad, where, told in (
        (np.zeros((4, 4)), affine, "expected .X, Y, Z. or"),
        (array, np.eye(3), "expected .X, Y, Z. or"),
        (np.full((4, 4, 4), np.nan), affine, "image has values that are not finite"),
        (array, np.zeros((4, 4)), "affine has values"),
        (np.zeros((2, 4, 4, 4)), affine, "found 2 channel"),
    ):
        with pytest.raises(DataError, match=told):
            model.segment_array(bad, where)


def test_probabilities_have_the_geometry_of_the_scan_and_give_its_label_map(
    models: list[Path], scans: Path, tmp_path: Path
) -> None:
    model = Model.load(models[0], "cpu")
    plain = predict(model, [scans], tmp_path / "plain")
    for path, before, target in zip(
        sorted(scans.iterdir()), plain, predict(model, [scans], tmp_path / "maps", probabilities=True), strict=True
    ):
        assert target.read_bytes() == before.read_bytes()
        file: Any = nib.load(tmp_path / "maps/probabilities" / target.name)  # type: ignore[attr-defined]
        scan: Any = nib.load(path)  # type: ignore[attr-defined]
        shares = np.asarray(file.dataobj)
        assert shares.dtype == np.float32 and shares.shape == (*scan.shape, 3)
        np.testing.assert_allclose(file.affine, scan.affine)
        np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
        # pieces are dropped afterwards: the map is that of the largest probability, or background
        best, labels = model.label_values[shares.argmax(-1)], values(target)
        assert (labels == best)[labels > 0].all() and (labels != best).mean() < 0.2
    # probabilities may be asked for later; label maps stay as they are
    first = tmp_path / "plain" / plain[0].name

    stamp = first.stat().st_mtime_ns
    assert predict(model, [scans], tmp_path / "plain", probabilities=True, skip_existing=True) == []
    assert first.stat().st_mtime_ns == stamp and len(list((tmp_path / "plain/probabilities").iterdir())) == 3


def test_several_models_average_their_probabilities(models: list[Path], scans: Path, tmp_path: Path) -> None:
    two = [Model.load(folder, "cpu") for folder in models[:2]]
    path = sorted(scans.iterdir())[1]
    predict(models[:2], [path], tmp_path / "both", probabilities=True)
    singles = []
    for number, model in enumerate(two):
        predict(model, [path], tmp_path / str(number), probabilities=True)
        singles.append(values(tmp_path / str(number) / "probabilities" / path.name))
    both = values(tmp_path / "both/probabilities" / path.name)
    np.testing.assert_allclose(both, (singles[0] + singles[1]) / 2, atol=1e-6)
    scan: Any = nib.load(path)  # type: ignore[attr-defined]
    image, affine, orientation = to_canonical(np.asarray(scan.dataobj)[np.newaxis], scan.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    labels, _ = Committee(two).segment(np.ascontiguousarray(image, dtype=np.float32), spacing)
    np.testing.assert_array_equal(orientation.undo(labels), values(tmp_path / "both" / path.name))
    assert predict([models[0], models[0]], [path], tmp_path / "twice")
    np.testing.assert_array_equal(values(tmp_path / "twice" / path.name), values(tmp_path / "0" / path.name))
    with pytest.raises(ConfigError, match=r"left has organs .*'left'.*, .*a has .*only if they agree"):
        predict([models[0], models[2]], [path], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


def test_volumes_are_those_of_the_label_maps(models: list[Path], scans: Path, tmp_path: Path) -> None:
    table = tmp_path / "volumes.csv"
    written = predict(models[0], [scans], tmp_path / "maps", volumes=table)
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 6 and list(rows[0]) == ["scan", "organ", "label", "ml", "pieces", "touches_border"]
    for row in rows:
        scan: Any = nib.load(tmp_path / "maps" / row["scan"])  # type: ignore[attr-defined]
        voxels = int((np.asarray(scan.dataobj) == int(row["label"])).sum())
        assert float(row["ml"]) == pytest.approx(voxels * abs(np.linalg.det(scan.affine[:3, :3])) / 1000, rel=1e-5)
    with pytest.raises(DataError, match="volumes.csv exists already"):
        predict(models[0], [scans], tmp_path / "other", volumes=table)
    before = table.read_bytes()
    table.unlink()
    assert predict(models[0], [scans], tmp_path / "maps", volumes=table, skip_existing=True) == []
    assert table.read_bytes() == before and len(written) == 3
    with pytest.raises(ConfigError, match="expected the name of a .csv"):
        predict(models[0], [scans], tmp_path / "other", volumes=tmp_path / "x.txt")


def test_pieces_and_borders_by_hand() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 1, 1], labels[1, 3, 1], labels[2, 3, 2], labels[0, 0, 5] = 1, 1, 1, 2
    one, two, none = volume_rows("s", labels, np.diag([2.0, 3.0, 5.0, 1.0]), {1: "a", 2: "b", 3: "c"})
    assert (one["ml"], one["pieces"], one["touches_border"]) == (0.09, 2, 0)
    assert (two["ml"], two["pieces"], two["touches_border"]) == (0.03, 1, 1)
    assert (none["ml"], none["pieces"], none["touches_border"]) == (0, 0, 0)
    flat = np.zeros((4, 4, 1), np.uint8)
    flat[1:3, 1:3] = 1
    assert volume_rows("s", flat, np.eye(4), {1: "a"})[0]["touches_border"] == 0


def test_parts_are_disjoint_and_complete(models: list[Path], scans: Path, tmp_path: Path) -> None:
    found = [predict(models[0], [scans], tmp_path / "maps", part=(i, 2)) for i in (1, 2)]
    assert sorted(path.name for part in found for path in part) == sorted(path.name for path in scans.iterdir())
    assert [len(part) for part in found] == [2, 1]
    whole = predict(models[0], [scans], tmp_path / "whole")
    assert all(path.read_bytes() == (tmp_path / "maps" / path.name).read_bytes() for path in whole)
    assert predict(models[0], [sorted(scans.iterdir())[0]], tmp_path / "none", part=(2, 2)) == []
    for part in ((0, 2), (3, 2)):
        with pytest.raises(ConfigError, match="expected i/n"):
            predict(models[0], [scans], tmp_path / "bad", part=part)
