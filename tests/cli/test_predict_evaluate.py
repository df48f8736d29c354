"""Predict and evaluate: unreadable scans, existing files, stopped runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.data.nifti import read_image
from metanas_med.files import read_csv

from .shared import Refused, snapshot


def without_support_notes(model: Path, folder: Path) -> Path:
    """Return a copy of a model without the notes on its support scans, like an older model."""
    copy = shutil.copytree(model, folder / "older")
    note = json.loads((copy / "model.json").read_text())
    del note["support_content"], note["support_spacing"], note["note_sha256"]
    (copy / "model.json").write_text(json.dumps(note))
    return copy


def scale_header(path: Path, factor: float) -> None:
    """Make the header of a NIfTI file claim voxels ``factor`` times as large."""
    image: Any = nib.load(path)  # type: ignore[attr-defined]
    larger = nib.Nifti1Image(np.asanyarray(image.dataobj), np.diag([factor, factor, factor, 1.0]) @ image.affine)  # type: ignore[attr-defined]
    nib.save(larger, path)  # type: ignore[attr-defined]


def test_scans_that_cannot_be_predicted(
    tiny_model: Path, phantoms: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out"]
    good = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0]
    two = sorted((phantoms / "Phantom05_ShellCore" / "imagesTr").iterdir())[0]
    assert re.search(r"found 2 channel\(s\), the model was adapted to 1", refused("predict", tiny_model, good, two, *out))
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(good.read_bytes()[:-10])  # its header is whole
    assert re.search("broken.nii.gz: (damaged|truncated)", refused("predict", tiny_model, good, broken, *out))
    assert "no such scan" in refused("predict", tiny_model, tmp_path / "none.nii.gz", *out)
    (tmp_path / "nothing").mkdir()
    assert "no scan found" in refused("predict", tiny_model, tmp_path / "nothing", *out)
    # all bad scans are listed, and can be left out
    text = tmp_path / "text.nii.gz"
    text.write_text("no scan")
    arguments = [str(a) for a in ("predict", tiny_model, good, broken, text, *out)]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "broken.nii.gz" in shown.out and "text.nii.gz" in shown.out and "2 of 3 scans cannot be segmented" in shown.err
    assert "leave them out with --skip-bad" in shown.err and not (tmp_path / "out").exists()
    assert main([*arguments, "--skip-bad"]) == 0
    assert "wrote 1 label map(s)" in capsys.readouterr().out
    # if no scan is left, --skip-bad does not help
    shown = refused("predict", tiny_model, broken, text, *out, "--skip-bad")
    assert "2 of 2 scans cannot be segmented" in shown and "--skip-bad" not in shown
    # existing files may be somebody's labels
    before = (tmp_path / "out" / good.name).read_bytes()
    assert main(["predict", str(tiny_model), str(good), "--out", str(tmp_path / "out")]) == 2
    assert f"{good.name} already exists and may be a manual label" in capsys.readouterr().err
    assert main(["predict", str(tiny_model), str(good), "--out", str(tmp_path / "out"), "--overwrite", "-v"]) == 0
    assert (tmp_path / "out" / good.name).read_bytes() == before and "wrote 1 label map(s)" in capsys.readouterr().out
    own = Path(shutil.copy(good, tmp_path / "own.nii.gz"))
    assert "would overwrite the scan" in refused("predict", tiny_model, own, "--out", tmp_path)


def test_a_stopped_prediction_can_be_continued(
    tiny_model: Path, phantoms: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys, caplog
) -> None:
    from metanas_med.engine.model import Model

    out, segment, seen = tmp_path / "out", Model.segment, []

    def stop_at_third(self: Model, *scan: Any) -> Any:
        seen.append(scan)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return segment(self, *scan)

    monkeypatch.setattr(Model, "segment", stop_at_third)
    command = ["predict", str(tiny_model), str(phantoms / "Phantom06_Pair"), "--out", str(out)]
    assert main(command) == 130
    before = snapshot(out)
    assert len(before) == 2
    capsys.readouterr()
    assert "give --skip-existing or --overwrite" in refused(*command)
    assert "exclude each other" in refused(*command, "--skip-existing", "--overwrite")
    capsys.readouterr()
    assert main([*command, "--skip-existing"]) == 0
    assert "skipped 2 of 6 scan(s)" in caplog.text and "wrote 4 label map(s)" in capsys.readouterr().out
    assert len(snapshot(out)) == 6 and before.items() <= snapshot(out).items() and len(seen) == 7
    assert main([*command, "--skip-existing"]) == 0
    assert "skipped 6 of 6 scan(s)" in caplog.text and "wrote 0 label map(s)" in capsys.readouterr().out
    # one bad scan among finished ones does not count as all scans being bad
    bad = tmp_path / "text.nii.gz"
    bad.write_text("no scan")
    command.insert(2, str(bad))
    assert "1 of 7 scans cannot be segmented" in refused(*command, "--skip-existing")
    assert main([*command, "--skip-existing", "--skip-bad"]) == 0 and "wrote 0 label map(s)" in capsys.readouterr().out


def test_predictions_are_scored_as_they_are_made(tiny_model: Path, phantoms: Path, phantom_cache: Path, tmp_path: Path) -> None:
    """With and without test-time augmentation, ``evaluate`` scores what ``predict`` writes; the two results differ."""
    data, dice = phantoms / "Phantom06_Pair", {}
    for name, more in {"plain": [], "tta": ["--tta"]}.items():
        maps, scores = (str(tmp_path / f"{name}-{kind}") for kind in ("maps", "scores"))
        assert main(["predict", str(tiny_model), str(data / "imagesTr"), "--out", maps, *more]) == 0
        assert main(["evaluate", str(tiny_model), str(phantom_cache / "Phantom06_Pair.h5"), "--out", scores, *more]) == 0
        summary = json.loads(Path(scores, "summary.json").read_text())
        assert summary["tta"] == bool(more)
        of_model = {row["case"]: row["dice"] for row in read_csv(Path(scores, "metrics.csv"))}
        for path in (data / "labelsTr").iterdir():  # label 1 in both, because the model segments one of two organs
            if path.name.removesuffix(".nii.gz") in of_model:
                truth, found = (read_image(p)[0][0] == 1 for p in (path, Path(maps, path.name)))
                of_folder = 2 * (truth & found).sum() / (truth.sum() + found.sum())
                assert float(of_model[path.name.removesuffix(".nii.gz")]) == pytest.approx(of_folder, abs=1e-4)
        dice[name] = of_model
    assert dice["plain"] != dice["tta"] and dice["plain"].keys() == dice["tta"].keys()


def test_a_scan_whose_header_claims_kilometres(
    tiny_model: Path, make_msd, phantoms: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is small, but at the model's spacing it would need more memory than is available."""
    tiny_model = without_support_notes(tiny_model, tmp_path)
    good = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0]
    far = make_msd("Far", labels=("left",), affine=np.diag([1e5, 1e5, 1e5, 1.0]))
    scan = far / "imagesTr" / "case_0.nii.gz"
    message = r"the header claims 1e\+06 x 1.2e\+06 x 8e\+05 mm, .* voxels at the plan's spacing, .* GiB of memory; .* Fix the"
    assert re.search(f"case_0.nii.gz: {message}", refused("predict", tiny_model, good, scan, "--out", tmp_path / "out"))
    arguments = ["predict", str(tiny_model), str(good), str(scan), "--out", str(tmp_path / "out"), "--skip-bad"]
    assert main(arguments) == 0 and "wrote 1 label map(s)" in capsys.readouterr().out
    assert main(["prepare", str(far), "--cache", str(tmp_path / "cache")]) == 0
    assert re.search(
        f"Far, case_0: {message}", refused("evaluate", tiny_model, tmp_path / "cache" / "Far.h5", "--out", tmp_path / "e")
    )


@pytest.mark.parametrize("scale", [0.001, 10.0])
def test_a_scan_whose_header_is_in_other_units_than_the_support(
    scale: float, tiny_model: Path, phantoms: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise it would be segmented as if it had a thousandth of its size, or ten times its size."""
    pair = shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Phantom06_Pair")
    scans = sorted((pair / "imagesTr").iterdir())
    for scan in scans[-2:]:
        scale_header(scan, scale)
        scale_header(pair / "labelsTr" / scan.name, scale)
    message = (
        "its voxels are .* mm; those of the scans that the model was adapted to are about .* mm. Is its header in other units"
    )
    assert re.search(
        f"{scans[-1].name}: {message}", refused("predict", tiny_model, scans[0], scans[-1], "--out", tmp_path / "out")
    )
    assert main(["predict", str(tiny_model), str(scans[0]), str(scans[-1]), "--out", str(tmp_path / "out"), "--skip-bad"]) == 0
    assert "wrote 1 label map(s)" in capsys.readouterr().out
    for case in json.loads((pair / "dataset.json").read_text())["training"][:-2]:  # with two cases, units are not compared
        for kind in ("image", "label"):
            (pair / case[kind]).unlink()
    note = json.loads((pair / "dataset.json").read_text())
    note["training"] = note["training"][-2:]
    (pair / "dataset.json").write_text(json.dumps(note))
    assert main(["prepare", str(pair), "--cache", str(tmp_path / "cache")]) == 0
    assert re.search(message, refused("evaluate", tiny_model, tmp_path / "cache" / "Phantom06_Pair.h5", "--out", tmp_path / "e"))
    if scale < 1:  # an older model accepts any scan that fits in memory
        old = without_support_notes(tiny_model, tmp_path)
        assert main(["predict", str(old), str(scans[-1]), "--out", str(tmp_path / "old")]) == 0


def test_held_back_scans_in_other_units_than_the_support_are_reported(
    tiny_run: Path, make_msd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_msd("Two", labels=("left",), num_cases=2)
    for kind in ("imagesTr", "labelsTr"):
        scale_header(data / kind / "case_1.nii.gz", 0.1)
    job = ["adapt", str(tiny_run), str(data), "--support", "case_0", "--steps", "1", "--cache", str(tmp_path / "cache")]
    assert main([*job, "--out", str(tmp_path / "model")]) == 0
    assert "Two, case_1, which is scored: its voxels are" in caplog.text and "those of the support are about" in caplog.text


def test_a_constant_ct_is_segmented_on_demand_with_a_warning(
    tiny_model: Path, phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image: Any = nib.load(sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0])  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(np.full(image.shape, 7.0, np.float32), image.affine), tmp_path / "flat.nii.gz")  # type: ignore[attr-defined]
    arguments = ["predict", str(tiny_model), str(tmp_path / "flat.nii.gz"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2 and not (tmp_path / "out").exists()
    assert main([*arguments, "--any-intensities"]) == 0
    assert "flat.nii.gz: the image, or one of its channels, has the same value" in caplog.text


def test_an_organ_without_any_prediction_is_reported(phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels, predictions = phantoms / "Phantom06_Pair" / "labelsTr", tmp_path / "predictions"
    predictions.mkdir()
    for path in labels.iterdir():  # as written by a model of the union
        image: Any = nib.load(path)  # type: ignore[attr-defined]
        union = np.minimum(np.asanyarray(image.dataobj), 1).astype(np.uint8)
        nib.save(nib.Nifti1Image(union, image.affine), predictions / path.name)  # type: ignore[attr-defined]
    arguments = ["evaluate", "--predictions", str(predictions), "--labels", str(labels), "--out"]
    assert main([*arguments, str(tmp_path / "union")]) == 0
    assert "no prediction contains label_2. Label maps of a union contain only its first label value" in caplog.text
    caplog.clear()
    arguments[2] = str(labels)
    assert main([*arguments, str(tmp_path / "same")]) == 0 and "no prediction contains" not in caplog.text


def test_an_unusable_out_folder_is_reported_before_the_work(
    tiny_run: Path,
    tiny_model: Path,
    phantoms: Path,
    pair: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("the work was started")

    monkeypatch.setattr("metanas_med.engine.adapt.make_episode", work)
    monkeypatch.setattr("metanas_med.engine.model.Model.segment", work)
    (tmp_path / "file").write_text("")
    labels, scans = phantoms / "Phantom06_Pair" / "labelsTr", phantoms / "Phantom06_Pair" / "imagesTr"
    for command in (
        ["adapt", tiny_run, pair, "--organ", "left", "--shots", "1"],
        ["evaluate", tiny_model, pair],
        ["evaluate", "--predictions", labels, "--labels", labels],
        ["predict", tiny_model, scans],
    ):
        for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
            assert "file is a file, expected a folder. Choose another --out" in refused(*command, "--out", out)
    assert "own file" in refused("suggest", scans, "--out", tmp_path / "dataset.json")


def test_invalid_evaluations_are_refused(
    tiny_model: Path, phantoms: Path, phantom_cache: Path, tmp_path: Path, refused: Refused
) -> None:
    out = ["--out", tmp_path / "out"]
    shown = refused("evaluate", tiny_model, phantom_cache / "Phantom01_Bean.h5", *out)
    assert "the model segments ['left']: Phantom01_Bean has no organ 'left'; known: bean" in shown
    assert "expected MODEL DATASET, or --predictions DIR --labels DIR" in refused("evaluate", tiny_model, *out)
    labels = phantoms / "Phantom06_Pair" / "labelsTr"
    assert "no such folder" in refused("evaluate", "--predictions", tmp_path / "none", "--labels", labels, *out)
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    names = sorted(p.name for p in labels.iterdir())
    shutil.copy(labels / names[0], predictions / names[1])
    assert re.search("has shape|mm apart", refused("evaluate", "--predictions", predictions, "--labels", labels, *out))
    for more in (["--limit", "1"], ["--tta"], [tiny_model]):
        shown = refused("evaluate", "--predictions", predictions, "--labels", labels, *more, *out)
        assert "would have no effect with --predictions and --labels" in shown
    shown = refused("evaluate", tiny_model, phantom_cache / "Phantom06_Pair.h5", "--predictions", predictions, *out)
    assert "--predictions would have no effect with MODEL and DATASET" in shown
    model = without_support_notes(tiny_model, tmp_path)  # then adaptation.json is read
    (model / "adaptation.json").write_text("{")
    assert "adaptation.json is damaged" in refused("evaluate", model, phantom_cache / "Phantom06_Pair.h5", *out)
