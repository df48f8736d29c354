"""What commands accept and say of doubtful input: layouts, links, headers, names of label maps, files among folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.engine.model import Model
from metanas_med.engine.predict_scans import predict
from metanas_med.engine.scan_files import find_scans
from metanas_med.errors import DataError

from .shared import Refused


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Label maps without a network: organ 1 where the first channel is positive."""
    monkeypatch.setattr(Model, "segment", lambda self, image, spacing, tta=False: (image[0] > 0).astype(np.uint8))


@pytest.fixture
def scans(phantoms: Path) -> list[Path]:
    return sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())


def test_one_scan_is_written_to_the_file_of_out(
    tiny_model: Path, scans: list[Path], tmp_path: Path, refused: Refused, capsys: Any, no_network: None
) -> None:
    for name in ("x.nii.gz", "new/folder/y.nii"):
        out = tmp_path / name
        assert main(["predict", str(tiny_model), str(scans[0]), "--out", str(out)]) == 0
        assert out.is_file() and f"wrote 1 label map(s) to {out}" in capsys.readouterr().out
        assert nib.Nifti1Image.from_filename(out).shape == nib.Nifti1Image.from_filename(scans[0]).shape
    shown = refused("predict", tiny_model, scans[0], "--out", tmp_path / "x.nii.gz")
    assert "x.nii.gz already exists and may be a manual label" in shown
    assert main(["predict", str(tiny_model), str(scans[1]), "--out", str(tmp_path / "x.nii.gz"), "--overwrite"]) == 0
    shown = refused("predict", tiny_model, *scans[:2], "--out", tmp_path / "z.nii.gz")
    assert "z.nii.gz names one label map, found 2 scans. Give a folder instead." in shown
    own = Path(shutil.copy(scans[0], tmp_path / "own.nii.gz"))
    assert "would overwrite the scan" in refused("predict", tiny_model, own, "--out", own, "--overwrite")
    assert predict(tiny_model, [own], tmp_path / "beside.nii.gz") == [tmp_path / "beside.nii.gz"]  # in the folder of the scan
    (tmp_path / "folder.nii.gz").mkdir()  # a folder of that name stays a folder
    assert predict(tiny_model, [scans[0]], tmp_path / "folder.nii.gz") == [tmp_path / "folder.nii.gz" / scans[0].name]


def test_scans_of_one_file_name_get_the_names_of_their_folders(
    tiny_model: Path, scans: list[Path], tmp_path: Path, no_network: None
) -> None:
    paths = []
    for folder, scan in zip(("a", "b", "c"), scans, strict=False):
        (tmp_path / folder).mkdir()
        paths.append(Path(shutil.copy(scan, tmp_path / folder / "ct.nii.gz")))
    for number, order in enumerate([paths, paths[::-1], [*paths, paths[0]]]):
        written = predict(tiny_model, order, tmp_path / f"out{number}")
        assert sorted(path.name for path in written) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / f"out{n}").iterdir()} for n in (0, 1))
    assert first == second and len(set(first.values())) == 3
    labels = tmp_path / "labels"
    shutil.copytree(tmp_path / "out0", labels)
    arguments = ["evaluate", "--predictions", str(tmp_path / "out1"), "--labels", str(labels), "--out", str(tmp_path / "scores")]
    assert main(arguments) == 0
    assert [p.name for p in predict(tiny_model, [paths[0]], tmp_path / "alone")] == ["ct.nii.gz"]  # no other has its name
    one = Path(shutil.copy(scans[0], tmp_path / "a" / "ct.nii"))
    with pytest.raises(DataError, match=rf"{one} and {paths[0]}|{paths[0]} and {one}"):
        predict(tiny_model, [paths[0], one], tmp_path / "out9")


def test_the_listed_scans_of_case_folders_are_found(scans: list[Path], tmp_path: Path) -> None:
    for number, scan in enumerate(scans[:3]):
        (tmp_path / f"s{number}").mkdir()
        shutil.copy(scan, tmp_path / f"s{number}" / "ct.nii.gz")
    where = tmp_path / "dataset.json"
    where.write_text('{"training": [{"image": "s0/ct.nii.gz"}, {"image": "s1/ct.nii.gz"}], "test": ["s2/ct.nii.gz"]}')
    assert find_scans([tmp_path]) == [tmp_path / "s2/ct.nii.gz"]
    where.write_text('{"training": [{"image": "s0/ct.nii.gz"}, {"image": "s1/ct.nii.gz"}], "test": []}')
    assert find_scans([tmp_path]) == [tmp_path / "s0/ct.nii.gz", tmp_path / "s1/ct.nii.gz"]


def as_nnunet(source: Path, root: Path) -> Path:
    """Return a copy of a data set with one channel in the layout of nnU-Net v2."""
    tree = json.loads((source / "dataset.json").read_text())
    for folder, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (root / folder).mkdir(parents=True)
        for path in (source / folder).iterdir():
            shutil.copy(path, root / folder / path.name.replace(".nii.gz", suffix))
    labels = {name: int(value) for value, name in tree["labels"].items()}
    found = {"channel_names": tree["modality"], "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(found))
    return root


def test_a_folder_of_nnunet_gives_what_its_msd_twin_gives(
    tiny_model: Path, tiny_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    """Prepare, suggest, adapt, predict and evaluate, each without a word about the layout."""
    folders = [Path(shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "msd" / "Pair"))]
    folders.append(as_nnunet(folders[0], tmp_path / "nnunet" / "Pair"))
    found: list[list[bytes]] = []
    for root in folders:
        out, cache = root.parent / "out", str(root.parent / "cache")
        small = ["--steps", "1", "--shots", "2", "--evaluate", "1", "--device", "cpu", "--precision", "float32", "--cache", cache]
        for command in (
            ["prepare", root, "--cache", cache],
            ["suggest", root, "--shots", "1", "--out", out / "list.json"],
            ["adapt", tiny_run, root, "--organ", "left", *small, "--out", out / "model"],
            ["predict", tiny_model, root, "--out", out / "maps", "--device", "cpu"],
            ["evaluate", tiny_model, root, "--cache", cache, "--limit", "1", "--out", out / "score"],
        ):
            assert main([str(part) for part in command]) == 0, command
        maps = sorted((out / "maps").iterdir())
        assert [path.name for path in maps] == sorted(path.name for path in (root / "labelsTr").iterdir())
        found.append([path.read_bytes() for path in (out / "model/model.safetensors", out / "score/metrics.csv", *maps)])
    assert found[0] == found[1]


def test_predictions_with_the_name_of_a_channel_file_are_named(scans: list[Path], tmp_path: Path, refused: Refused) -> None:
    for place, suffix in (("predictions", "_0000"), ("labels", "")):
        (tmp_path / place).mkdir()
        for number in range(2):
            label = np.ones((4, 4, 4), np.uint8)
            nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / place / f"case_{number}{suffix}.nii.gz")
    for a, b in (("predictions", "labels"), ("labels", "predictions")):
        shown = refused("evaluate", "--predictions", tmp_path / a, "--labels", tmp_path / b, "--out", tmp_path / "out")
        assert "_0000 is the channel in names of nnU-Net" in shown and "case_0.nii.gz" in shown and "case_0_0000.nii.gz" in shown


def bare(path: Path, scan: Path) -> None:
    """Write a scan without orientation in its header."""
    image = nib.Nifti1Image.from_filename(scan)
    header = image.header.copy()
    header.set_sform(None, 0)
    header.set_qform(None, 0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, header), path)


def test_what_headers_leave_open_is_said_by_every_command(
    tiny_model: Path, tiny_run: Path, phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    root = tmp_path / "Bare"
    shutil.copytree(phantoms / "Phantom06_Pair", root)
    for folder in ("imagesTr", "labelsTr"):
        for path in sorted((root / folder).iterdir()):
            bare(path, path)
    note = "no orientation in the header: left and right may be swapped"
    cache = ["--cache", str(tmp_path / "cache")]

    def said(*command: Any) -> str:
        caplog.clear()
        capsys.readouterr()
        assert main([str(a) for a in command]) == 0, capsys.readouterr().err
        return caplog.text + capsys.readouterr().out

    shown = said("prepare", root, *cache)
    assert shown.count(note) == 1 and f"Bare: 6 case(s): {note}: " in shown and "and 3 more" in shown
    shown = said(
        "adapt", tiny_run, root, *cache, "--organ", "left", "--shots", 1, "--evaluate", 1, "--steps", 1, "--out", tmp_path / "m"
    )
    assert f"Bare: 2 case(s): {note}: " in shown  # the support scan and the one that is scored
    shown = said("evaluate", tiny_model, root, *cache, "--limit", 1, "--out", tmp_path / "e")
    assert f"Bare: 1 case(s): {note}: " in shown
    shown = said("suggest", root, "--shots", 1)
    assert f"Bare: 6 case(s): {note}: " in shown
    shown = said("predict", tiny_model, sorted((root / "imagesTr").iterdir())[0], "--out", tmp_path / "p")
    assert shown.count(note) == 1
    shown = said("predict", tiny_model, sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0], "--out", tmp_path / "q")
    assert note not in shown


def test_the_switch_for_lost_geometry(make_msd: Any, tmp_path: Path, refused: Refused, capsys: Any) -> None:
    root = make_msd(affine=np.diag([2.0, 2, 3, 1]))
    for path in sorted((root / "labelsTr").iterdir()):
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), np.eye(4)), path)  # type: ignore[attr-defined]
    cache = ["--cache", tmp_path / "cache"]
    assert "--labels-like-images gives it the geometry of the scan" in refused("prepare", root, *cache)
    assert main(["prepare", str(root), "--labels-like-images", *map(str, cache)]) == 0
    assert "3 case(s): the label map has the shape of the scan" in capsys.readouterr().out
    shutil.copytree(root / "imagesTr", tmp_path / "maps")
    for path in (tmp_path / "maps").iterdir():
        nib.save(nib.Nifti1Image(np.ones((10, 12, 8), np.uint8), np.diag([2.0, 2, 3, 1])), path)
    command = ["evaluate", "--predictions", tmp_path / "maps", "--labels", root / "labelsTr", "--out", tmp_path / "out"]
    assert "--labels-like-images" in refused(*command)
    assert main([*map(str, command), "--labels-like-images"]) == 0
    assert "--follow-links would have no effect" in refused(*command, "--follow-links")


def test_the_switch_for_links(make_msd: Any, tmp_path: Path, refused: Refused) -> None:
    root, store = make_msd("Toy"), make_msd("Store")
    for path in sorted((root / "imagesTr").iterdir()):
        path.unlink()
        path.symlink_to(store / "imagesTr" / path.name)
    assert "--follow-links" in refused("prepare", root, "--cache", tmp_path / "cache")
    assert "--follow-links" in refused("suggest", root, "--shots", "1")
    assert main(["prepare", str(root), "--cache", str(tmp_path / "cache"), "--follow-links"]) == 0
    assert main(["suggest", str(root), "--shots", "1", "--follow-links"]) == 0
    assert len(find_scans([root])) == 3  # predict follows links


def test_files_among_data_sets(make_msd: Any, tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture) -> None:
    root = make_msd()
    readme = root.parent / "README.md"
    readme.write_text("notes")
    assert main(["prepare", str(readme), str(root), "--cache", str(tmp_path / "cache")]) == 0
    assert f"passed over 1 file(s), expected folders: {readme}" in caplog.text
    for command in (["prepare", readme, "--cache", tmp_path / "c"], ["suggest", readme, "--shots", "1"]):
        assert "README.md: this is a file; expected a folder" in refused(*command)


def test_help_names_the_pretexts(capsys: Any) -> None:
    from metanas_med.pretext import PRETEXTS

    for command in ("search", "adapt"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert ", ".join(PRETEXTS.names()) in shown
