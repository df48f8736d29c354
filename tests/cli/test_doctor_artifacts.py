"""``doctor`` on a model, a run and a data set: whole ones are in order, and each damage has its line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from metanas_med.cli import main
from metanas_med.engine.checkpoint import _hash_of_note
from metanas_med.files import sha256_file

Seen = Callable[..., list[str]]


@pytest.fixture
def seen(capsys: pytest.CaptureFixture[str]) -> Seen:
    """``seen(path, code)`` runs doctor, checks its exit code and returns its lines."""

    def run(path: Path, code: int = 0, *more: str) -> list[str]:
        capsys.readouterr()
        found = main(["doctor", str(path), *more])
        out, err = capsys.readouterr()
        assert found == code, out + err
        assert code == 0 or f"error: {path} is not in order; see the lines marked fail" in err
        return [" ".join(line.split()) for line in out.splitlines()]

    return run


def matching(lines: list[str], pattern: str) -> bool:
    return any(re.search(pattern, line) for line in lines)


def changed(path: Path, **values: Any) -> None:
    """Change top-level values of a JSON file, and its own hash to fit; None deletes a key."""
    tree = json.loads(path.read_text()) | values
    tree = {key: value for key, value in tree.items() if value is not None}
    if "note_sha256" in tree:
        tree["note_sha256"] = _hash_of_note(tree)
    path.write_text(json.dumps(tree))


def with_tensors(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a state, and its hash to fit."""
    tensors = load_file(folder / f"{name}.safetensors")
    change(tensors)
    save_file(tensors, folder / f"{name}.safetensors")
    changed(folder / f"{name}.json", sha256=sha256_file(folder / f"{name}.safetensors"))


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name, value in tensors.items() if value.is_floating_point() and value.numel() > 1)
    tensors[name].view(-1)[0] = torch.nan


def dropped(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if name.endswith("stem.kernel"))]


def test_a_whole_model(tiny_model: Path, seen: Seen) -> None:
    lines = seen(tiny_model)
    assert all(line.startswith("ok") for line in lines) and len(lines) >= 9
    assert matching(lines, "ok forward pass: finite scores of 1 organ") and matching(lines, "ok support: 2 scan")


def _plan(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        note = json.loads((folder / "model.json").read_text())
        changed(folder / "model.json", plan=note["plan"] | values)

    return change


def _window(folder: Path) -> None:
    _plan(intensities=[{"kind": "ct", "low": 3071.0, "high": 3071.0, "center": 0.0, "scale": 1.0}])(folder)


MODEL_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), "fail tensors: .*model.safetensors is missing"),
    "a bit": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1] + b"\x01"),
        "fail tensors: .* is damaged",
    ),
    "cut note": (lambda f: (f / "model.json").write_text("{"), "fail tensors: .*model.json is damaged"),
    "other format": (lambda f: changed(f / "model.json", format=99), "fail tensors: .*format 99"),
    "not finite": (lambda f: with_tensors(f, "model", not_finite), "fail tensors: .* holds NaN or infinity"),
    "no organs": (lambda f: changed(f / "model.json", organs=None), "fail network: .*cannot be used"),
    "other network": (lambda f: with_tensors(f, "model", dropped), "fail network: .*do not fit"),
    "spacing": (_plan(spacing=[1.0, 0.0, 1.0]), "fail network: .*plan.spacing is not possible"),
    "view": (_plan(view=[0, 8, 8]), "fail network: .*plan.view is not possible"),
    "axes": (_plan(axes=[0, 0, 2]), "fail network: .*plan.axes is not possible"),
    "window": (_window, "fail intensities: channel 0: the window from 3071 to 3071 makes each image constant"),
    "architecture": (lambda f: changed(f / "architecture.json", extra=1), "fail architecture: architecture.json differs"),
    "no architecture": (lambda f: (f / "architecture.json").unlink(), "fail architecture: architecture.json is missing"),
    "adaptation": (lambda f: (f / "adaptation.json").write_text("{"), "fail adaptation: adaptation.json is damaged"),
    "other adaptation": (lambda f: changed(f / "adaptation.json", model_sha256="0"), "fail adaptation: .* another model"),
    "no list": (lambda f: changed(f / "adaptation.json", support=3), "fail checks: the check after 'architecture'"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), "fail tensors: .*is not a model"),
    "other support": (
        lambda f: changed(f / "adaptation.json", support=["case-000000000000"]),
        "fail adaptation: .* does not know",
    ),
    "support hash": (lambda f: changed(f / "model.json", support_content=["abc"]), "fail support: 1 of 1 support hashes"),
}


@pytest.mark.parametrize("fault", list(MODEL_FAULTS))
def test_a_damaged_model(fault: str, tiny_model: Path, tmp_path: Path, seen: Seen) -> None:
    damage, pattern = MODEL_FAULTS[fault]
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    damage(folder)
    assert matching(lines := seen(folder, 2), pattern), lines


def test_a_model_with_an_unknown_past(tiny_model: Path, tmp_path: Path, seen: Seen) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "adaptation.json").unlink()
    changed(folder / "model.json", support_content=None)
    lines = seen(folder)
    assert matching(lines, "warn adaptation: no adaptation.json") and matching(lines, "warn support: the model does not record")


def test_a_whole_run(tiny_run: Path, seen: Seen) -> None:
    lines = seen(tiny_run)
    assert all(line.startswith("ok") for line in lines), lines
    for pattern in (
        "ok last: iteration 2",
        "ok best: ",
        "ok settings",
        "ok rows: iterations 1 to 2",
        "ok csv",
        "ok data",
        "ok resume",
    ):
        assert matching(lines, pattern), pattern


def _lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "iteration.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


RUN_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit": (
        lambda f: (f / "last.safetensors").write_bytes((f / "last.safetensors").read_bytes()[:-1] + b"\x01"),
        "fail last: .* is damaged",
    ),
    "no note": (lambda f: (f / "last.json").unlink(), "fail last: .* holds no last.json"),
    "best": (lambda f: (f / "best.json").write_text("{}"), "fail best: .* is not a meta-state"),
    "not finite": (lambda f: with_tensors(f, "best", not_finite), "fail best: .* holds NaN or infinity"),
    "other space": (lambda f: with_tensors(f, "last", dropped), "fail last: the network"),
    "counters": (lambda f: changed(f / "last.json", seconds=None), "fail last: last.json lacks seconds"),
    "settings": (lambda f: changed(f / "settings.json", metta={}), "fail settings: "),
    "cut settings": (lambda f: (f / "settings.json").write_text("{"), "fail settings: settings.json is damaged"),
    "gap": (_lines(lambda rows: rows[1:]), "fail rows: .*row 1 is of iteration 2"),
    "twice": (_lines(lambda rows: rows[:2] + rows[1:]), "fail rows: .*row 3 is of iteration 2"),
    "short": (_lines(lambda rows: rows[:1]), "fail rows: .*ends at iteration 1, last.json is at 2"),
    "a folder": (lambda f: ((f / "iteration.jsonl").unlink(), (f / "iteration.jsonl").mkdir()), "fail checks: .*IsADirectory"),
    "damaged row": (_lines(lambda rows: ["{\n", *rows[1:]]), "fail rows: .*is damaged"),
    "csv": (lambda f: (f / "iteration.csv").write_text("iteration,loss\n1,2\n"), "fail csv: iteration.csv differs"),
}


@pytest.mark.parametrize("fault", list(RUN_FAULTS))
def test_a_damaged_run(fault: str, tiny_run: Path, tmp_path: Path, seen: Seen) -> None:
    damage, pattern = RUN_FAULTS[fault]
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    damage(folder)
    assert matching(lines := seen(folder, 2), pattern), lines


def test_a_run_without_its_data(tiny_run: Path, tmp_path: Path, seen: Seen) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    changed(folder / "settings.json", cache=str(tmp_path / "gone"))
    assert matching(seen(folder), "warn data: .*gone: no cached data set.* not resumed")
    changed(folder / "settings.json", cache=str(tmp_path))
    shutil.copyfile(next(Path(json.loads((tiny_run / "settings.json").read_text())["cache"]).glob("*.h5")), tmp_path / "One.h5")
    assert matching(seen(folder), "warn data: .* lacks Phantom0")


def test_a_shipped_start_is_in_order(seen: Seen) -> None:
    start = Path(__file__).parents[2] / "metanas_med" / "starts" / "demo"
    lines = seen(start)
    assert matching(lines, "ok last: iteration") and matching(lines, "warn settings: no settings.json")


def test_a_whole_data_set(phantoms: Path, phantom_cache: Path, seen: Seen) -> None:
    for path in (phantoms / "Phantom06_Pair", phantom_cache / "Phantom06_Pair.h5"):
        lines = seen(path)
        assert all(line.startswith("ok") for line in lines), lines
        assert matching(lines, "ok cases: all 6 are in order")
    assert len(seen(phantom_cache)) == 9  # three files of a folder


def test_a_damaged_data_set(phantoms: Path, tmp_path: Path, seen: Seen) -> None:
    root = Path(shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Pair"))
    images, labels = (sorted((root / kind).iterdir()) for kind in ("imagesTr", "labelsTr"))
    images[0].write_bytes(images[0].read_bytes()[:-9])
    labels[1].unlink()
    for files in (images, labels):
        shutil.copyfile(files[4], files[3])
    lines = seen(root, 2)
    assert matching(lines, f"fail {images[0].name[:-7]}: .*(truncated|damaged)")
    assert matching(lines, f"fail {images[1].name[:-7]}: ") and matching(lines, "has the same voxels as")
    tree = json.loads((root / "dataset.json").read_text())
    tree["labels"] = {"0": "background", "1": "left", "2": "right", "3": "middle"}
    (root / "dataset.json").write_text(json.dumps(tree))
    assert matching(seen(root, 2), "fail organs: no case has a voxel of middle")
    (root / "dataset.json").write_text("{")
    assert matching(seen(root, 2), "fail dataset.json: ")


def _flip(file: h5py.File, meta: dict[str, Any]) -> None:
    name = meta["cases"][0]["name"]
    file["images"][name][0, 0, 0, 0] += 1  # type: ignore[index]


def _relabel(file: h5py.File, meta: dict[str, Any]) -> None:
    label = file["labels"][meta["cases"][0]["name"]]  # type: ignore[index]
    values = np.asarray(label)
    values[tuple(np.argwhere(values == 0)[0])] = 1
    label[...] = values  # type: ignore[index]


CACHE_FAULTS: dict[str, tuple[Callable[[h5py.File, dict[str, Any]], Any], str]] = {
    "a voxel": (_flip, "fail .*: the image differs from its content hash"),
    "a label": (_relabel, "fail .*: the label has .* voxels by value, listed are"),
    "no image": (lambda file, meta: file.pop(f"images/{meta['cases'][0]['name']}"), "fail .*: .*damaged cache file"),
    "an extra image": (
        lambda file, meta: file.create_dataset("images/more", data=[1]),
        "fail more: the file has images of 1 case",
    ),
    "spacing": (lambda file, meta: meta["cases"][0].update(spacing=[9, 9, 9]), "fail .*: .*spacing of pair_001"),
    "shape": (lambda file, meta: meta["cases"][0].update(shape=[9, 9, 9]), "fail .*: .*content_box of pair_001"),
    "box": (lambda file, meta: meta["cases"][0].update(content_box=[[0, 1]] * 3), "fail .*: the content box"),
    "counts": (lambda file, meta: meta["cases"][0].update(label_voxels={"1": 3}), "fail .*: the label has .* listed are {1: 3}"),
    "twice": (lambda file, meta: meta["cases"].append(meta["cases"][0]), "fail .*: .*two cases have one name"),
    "meta": (lambda file, meta: meta.pop("labels"), "fail Pair.h5: .*damaged cache file"),
}


@pytest.mark.parametrize("fault", list(CACHE_FAULTS))
def test_a_damaged_cache(fault: str, phantom_cache: Path, tmp_path: Path, seen: Seen) -> None:
    damage, pattern = CACHE_FAULTS[fault]
    path = Path(shutil.copyfile(phantom_cache / "Phantom06_Pair.h5", tmp_path / "Pair.h5"))
    with h5py.File(path, "r+") as file:
        meta = json.loads(np.asarray(file["meta"]).tobytes())
        damage(file, meta)
        del file["meta"]
        file.create_dataset("meta", data=np.frombuffer(json.dumps(meta).encode(), np.uint8))
    assert matching(lines := seen(path, 2), pattern), lines


def test_every_chunk_of_a_cache_is_read(phantom_cache: Path, tmp_path: Path, seen: Seen) -> None:
    """A flipped byte anywhere in a stored image is found by the checksum of its chunk."""
    path = Path(shutil.copyfile(phantom_cache / "Phantom06_Pair.h5", tmp_path / "Pair.h5"))
    with h5py.File(path) as file:
        where = file["images"]["pair_003"].id.get_chunk_info(0)  # type: ignore[index, union-attr]
    raw = bytearray(path.read_bytes())
    raw[where.byte_offset + where.size // 2] ^= 8
    path.write_bytes(raw)
    assert matching(seen(path, 2), "fail pair_003: .*damaged cache file")


def test_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.json").write_text("{}")
    for path, message in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "file.json", "is a file; expected the folder"),
        (tmp_path, "no model .* no run .* no data set"),
    ):
        assert main(["doctor", str(path)]) == 2
        assert re.search(message, capsys.readouterr().err)
    assert main(["doctor", str(tmp_path), "--cache", str(tmp_path)]) == 2 and "no effect" in capsys.readouterr().err
