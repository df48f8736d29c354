"""``adapt`` and ``evaluate`` on data with gaps: organs not annotated or absent, duplicates, bad cases, models that find nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data import cache as cache_module
from metanas_med.data.cache import BadCases
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.evaluate_model import evaluate
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.support import open_dataset
from metanas_med.errors import DataError

from ..data.broken import break_case

CPU: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> MetaRun:
    return MetaRun.load(tiny_run)


@pytest.fixture
def pair(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pairs (left: 1, right: 2) that may be changed, with its own cache."""
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Pair"))


def names_of(root: Path) -> list[str]:
    return [entry["image"].split("/")[-1].removesuffix(".nii.gz") for entry in tree_of(root)["training"]]


def tree_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "dataset.json").read_text())


def without(root: Path, name: str, value: int, annotated: list[str] | None = None) -> None:
    """Remove the voxels of one label from a case; ``annotated``: what dataset.json then says about it."""
    path = root / "labelsTr" / f"{name}.nii.gz"
    label: Any = nib.load(path)  # type: ignore[attr-defined]
    values = np.asarray(label.dataobj).astype(np.uint8)
    nib.save(nib.Nifti1Image(np.where(values == value, 0, values).astype(np.uint8), label.affine), path)  # type: ignore[attr-defined]
    if annotated is not None:
        tree = tree_of(root)
        tree["training"][names_of(root).index(name)]["annotated"] = annotated
        (root / "dataset.json").write_text(json.dumps(tree))


def fit(run: MetaRun, data: Any, out: Path, organ: str = "all", **given: Any) -> dict[str, Any]:
    given = {"steps": 0, "evaluate": 5, "shots": 2} | given
    return adapt(run, data, out, AdaptSettings(organ=organ, **given, **CPU))


def test_scans_that_lack_an_organ_are_named(run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = names_of(pair)
    without(pair, names[0], 2)
    without(pair, names[3], 2)
    without(pair, names[4], 2)
    note = fit(run, pair, tmp_path / "m", support=names[:2])
    assert (
        f"{names[0]} holds no voxel of right: it is learned as background there. If it is visible but not annotated"
        in caplog.text
    )
    assert "say so with 'annotated' in dataset.json (docs/data.md), or fit right from the other scans" in caplog.text
    assert (
        f"{names[3]}, {names[4]}, scored, hold no voxel of right: the Dice there is 1 if the model finds nothing" in caplog.text
    )
    assert "annotated" not in note and set(note["scored"][names[3]]["after"]) == {"left", "right"}
    caplog.clear()
    evaluate(tmp_path / "m", pair, tmp_path / "e")
    assert f"{names[3]}, {names[4]}, scored, hold no voxel of right" in caplog.text


def test_organs_that_are_not_annotated_give_no_row(
    run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = names_of(pair)
    for name in (names[0], names[3]):
        without(pair, name, 2, ["left"])
    note = fit(run, pair, tmp_path / "m", support=names[:2], steps=2)
    assert "holds no voxel of right" not in caplog.text
    assert set(note["scored"][names[3]]["after"]) == {"left"} and set(note["scored"][names[2]]["before"]) == {"left", "right"}
    assert note["annotated"] == {"support": {"right": (1, 2)}, "scored": {"right": (3, 4)}}
    assert json.loads((tmp_path / "m" / "adaptation.json").read_text())["annotated"]["support"] == {"right": [1, 2]}
    values = [d for found in note["scored"].values() for d in found["after"].values()]
    assert len(values) == 7 and note["dice_after"] == pytest.approx(np.mean(values))
    summary = evaluate(tmp_path / "m", pair, tmp_path / "e")
    assert summary["organs"]["left"]["num_cases"] == 4 and summary["organs"]["right"]["num_cases"] == 3
    assert summary["annotated"] == {"right": (3, 4)} and "holds no voxel of right" not in caplog.text
    rows = (tmp_path / "e" / "metrics.csv").read_text()
    known = json.loads((tmp_path / "e" / "cases.private.json").read_text())
    identifier = next(key for key, name in known["cases"].items() if name == names[3])
    assert f"{identifier},left" in rows and f"{identifier},right" not in rows


def test_a_support_without_a_complete_scan_is_told_once(
    run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = names_of(pair)
    without(pair, names[0], 2, ["left"])
    without(pair, names[1], 1, ["right"])
    note = fit(run, pair, tmp_path / "m", support=names[:2], evaluate=1)
    assert caplog.text.count("no support scan annotates all of left, right") == 1 and set(note["support_dice"]) == {
        "left",
        "right",
    }
    caplog.clear()
    fit(run, pair, tmp_path / "n", support=names[:3], evaluate=0)
    assert "no support scan" not in caplog.text


def test_scans_that_annotate_no_organ_of_the_task_are_not_used(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    names = names_of(pair)
    for name in names[:2]:
        without(pair, name, 2, ["left"])
    with pytest.raises(DataError, match=f"{names[0]}: none of right is annotated in this scan. Leave it out of the support"):
        fit(run, pair, tmp_path / "m", "right", support=names[:3])
    for seed in range(3):
        note = fit(run, pair, tmp_path / str(seed), "right", seed=seed, shots=3)
        assert not {*note["support"], *note["scored"]} & set(names[:2])
    summary = evaluate(tmp_path / "0", pair, tmp_path / "e")
    assert summary["num_cases"] == 1 and summary["num_not_annotated_left_out"] == 2


def test_a_scan_with_the_voxels_of_a_support_scan_is_not_scored(
    run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = names_of(pair)
    for folder in ("imagesTr", "labelsTr"):
        shutil.copy(pair / folder / f"{names[0]}.nii.gz", pair / folder / f"{names[1]}.nii.gz")
    note = fit(run, pair, tmp_path / "m", support=(names[0], names[2]))
    assert names[1] not in note["scored"] and len(note["scored"]) == 3
    assert f"{names[1]} holds the same voxels as the support scan {names[0]}: it is not scored" in caplog.text
    fit(run, pair, tmp_path / "twice", support=(names[2],))
    assert f"{names[0]} and {names[1]}, which are scored, hold the same voxels" in caplog.text
    fit(run, pair, tmp_path / "n", support=(names[0], names[1]))
    assert f"{names[1]} holds the same voxels as the support scan {names[0]}: both are support scans of one" in caplog.text
    for seed in range(4):
        note = fit(run, pair, tmp_path / str(seed), seed=seed, shots=2, evaluate=9)
        assert len({names[0], names[1]} & {*note["support"], *note["scored"]}) <= 1 or set(names[:2]) <= set(note["scored"])


def test_the_order_in_which_support_scans_are_named_has_no_influence(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    names = names_of(pair)[:3]
    orders = [names, names[::-1], [names[1], names[2], names[0], names[1]]]
    notes = [fit(run, pair, tmp_path / str(i), support=order, steps=2, evaluate=0) for i, order in enumerate(orders)]
    assert len({note["model_sha256"] for note in notes}) == 1
    assert all(note["support"] == notes[0]["support"] for note in notes)


def damage(root: Path, name: str) -> None:
    path = root / "labelsTr" / f"{name}.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


def test_a_bad_case_that_is_not_needed_gives_a_warning(
    run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = names_of(pair)
    expected = fit(run, pair, tmp_path / "whole", support=names[:2], steps=2, evaluate=0)
    damage(pair, names[5])
    note = fit(run, pair, tmp_path / "m", support=names[:2], steps=2)
    assert f"Pair, {names[5]} is left out: {pair}/labelsTr/{names[5]}.nii.gz: damaged" in caplog.text
    assert note["model_sha256"] == expected["model_sha256"] and names[5] not in note["scored"]
    # the second run does not check all scans again, and still warns
    caplog.clear()
    monkeypatch.setattr(cache_module, "check_case", lambda *_: pytest.fail("checked again"))
    fit(run, pair, tmp_path / "n", support=names[:2], evaluate=0)
    assert f"{names[5]} is left out" in caplog.text
    # it is never drawn, and naming it is an error that states its problem
    with pytest.raises(DataError, match=r"6 shots were asked for, found 5 patient\(s\).*fix the cases.*: " + names[5]):
        fit(run, pair, tmp_path / "o", shots=6)
    with pytest.raises(DataError, match=f"Pair, {names[5]}, a support scan, cannot be used: .*damaged"):
        fit(run, pair, tmp_path / "o", support=(names[0], names[5]))
    assert not (tmp_path / "o").exists()


def test_a_missing_file_of_a_case_that_is_not_needed_gives_a_warning(
    run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = names_of(pair)
    (pair / "imagesTr" / f"{names[4]}.nii.gz").unlink()
    fit(run, pair, tmp_path / "m", support=names[:2])
    assert f"Pair, {names[4]} is left out" in caplog.text and "no such file" in caplog.text
    with pytest.raises(DataError, match=f"{names[4]}, a support scan, cannot be used: .*no such file"):
        fit(run, pair, tmp_path / "o", support=(names[4],))


def test_an_organ_that_no_scan_holds_matters_only_if_it_is_asked_for(
    run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = tree_of(pair)
    tree["labels"]["3"] = "gallbladder"
    (pair / "dataset.json").write_text(json.dumps(tree))
    fit(run, pair, tmp_path / "m", "left")
    assert "gallbladder" not in caplog.text
    assert evaluate(tmp_path / "m", pair, tmp_path / "e")["num_cases"] == 4
    with pytest.raises(DataError, match="gallbladder: no scan holds the organ"):
        fit(run, pair, tmp_path / "n", "gallbladder")


def test_a_data_set_without_a_usable_scan_is_refused(run: MetaRun, make_msd: Any, tmp_path: Path) -> None:
    root = make_msd(num_cases=2)
    for number in range(2):
        break_case(root, number, "NaN")
    with pytest.raises(BadCases, match="2 problem"):
        open_dataset(root, tmp_path / "cache", skip_bad=True)
    with pytest.raises(BadCases, match="no such folder|no such file"):
        open_dataset(tmp_path / "nowhere", tmp_path / "cache", skip_bad=True)


def test_a_whole_evaluation_needs_every_case_and_a_limited_one_does_not(
    run: MetaRun, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = names_of(pair)
    fit(run, pair, tmp_path / "m", support=names[:2], evaluate=0)
    damage(pair, names[2])
    with pytest.raises(BadCases, match="damaged"):
        evaluate(tmp_path / "m", pair, tmp_path / "e")
    assert not (tmp_path / "e").exists()
    assert evaluate(tmp_path / "m", pair, tmp_path / "e", limit=2)["num_cases"] == 2
    assert f"Pair, {names[2]} is left out" in caplog.text
