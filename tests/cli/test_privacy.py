"""What leaves this machine names no patient: identifiers planted everywhere are searched for in every file that is shared.

Planted: names of files and folders, header fields, header extensions, fields of dataset.json, the path of the cache, a block of
voxels. Searched: models, checkpoints, figures, tables, evaluations, the contents of label maps, and what W&B gets, offline.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.data.cached import open_cache
from metanas_med.privacy import PRIVATE_FILE, CaseIds, case_id, dataset_id, known_names, public_name, redact, renamed

#: the patient in file names and headers, the user in paths, and the folder of the data set
PATIENT, FIELD, USER, FOLDER = "DOE_JANE_1970", "DOE^JANE", "jdoe1970", "Clinic_of_Doe_Jane"
PLANTED = (PATIENT, FIELD, USER, FOLDER)
BLOCK = np.random.default_rng(27).integers(11000, 30000, size=(6, 6, 6)).astype(np.int16)


def spellings(word: str) -> Iterator[bytes]:
    """Yield a word as it may be written to a file: in several encodings and cases."""
    for text in {word, word.lower(), word.upper(), word.replace("_", " "), word.replace("^", "_"), quote(word)}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"):
            yield text.encode(encoding)
        raw = text.encode()
        yield raw.hex().encode()
        for shift in range(3):  # base64 depends on the place in its group of three; the ends depend on the neighbours
            yield base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4]
    yield json.dumps(word)[1:-1].encode()


def lines_of_voxels() -> Iterator[bytes]:
    """Yield lines of the planted block along each axis, in several types."""
    for axis in range(3):
        line = np.moveaxis(BLOCK, axis, 0)[:, 2, 3]
        for kind in ("<i2", ">i2", "<f4", ">f4", "<f8", "<i4"):
            yield line.astype(kind).tobytes()


def contents(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, and what is compressed in it."""
    raw = path.read_bytes()
    yield raw
    if raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    if raw[:8] == b"\x89PNG\r\n\x1a\n":
        place = 8
        while place < len(raw):
            (size,), kind = struct.unpack(">I", raw[place : place + 4]), raw[place + 4 : place + 8]
            chunk = raw[place + 8 : place + 8 + size]
            assert kind not in (b"eXIf", b"tIME"), path
            if kind in (b"zTXt", b"iTXt"):
                yield zlib.decompress(chunk.rsplit(b"\0", 1)[1])
            place += 12 + size


def found_in(paths: list[Path], words: tuple[str, ...], voxels: bool = True) -> list[str]:
    """Return the planted words, or voxels, that the files hold."""
    told = []
    for path in paths:
        for content in contents(path):
            told += [f"{path.name}: {word}" for word in words if any(form in content for form in spellings(word))]
            told += [f"{path.name}: voxels" for line in lines_of_voxels() if voxels and line in content]
    return told


def files(folder: Path, *left_out: str) -> list[Path]:
    """Return the files below a folder, without those called ``left_out`` and those in folders of that name."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not {*left_out} & {*path.relative_to(folder).parts}]


@pytest.fixture
def clinic(phantoms: Path, tmp_path: Path) -> Path:
    """A copy of a phantom data set with identifiers in all places."""
    source, root = phantoms / "Phantom06_Pair", tmp_path / USER / FOLDER
    for kind in ("imagesTr", "labelsTr"):
        (root / kind).mkdir(parents=True)
    entries = []
    for number, path in enumerate(sorted((source / "imagesTr").glob("*.nii.gz"))):
        name = f"{PATIENT}_{number:03d}.nii.gz"
        for kind in ("imagesTr", "labelsTr"):
            image: Any = nib.load(source / kind / path.name)  # type: ignore[attr-defined]
            voxels = np.asanyarray(image.dataobj).astype(np.int16 if kind == "imagesTr" else np.uint8)
            if kind == "imagesTr":
                voxels[2:8, 2:8, 2:8] = BLOCK
            made = nib.Nifti1Image(voxels, image.affine)  # type: ignore[attr-defined]
            for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
                made.header[field] = FIELD.encode()
            extension = nib.nifti1.Nifti1Extension("comment", f"{FIELD} born 1970".encode())  # type: ignore[attr-defined]
            made.header.extensions.append(extension)
            nib.save(made, root / kind / name)  # type: ignore[attr-defined]
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    tree = json.loads((source / "dataset.json").read_text()) | {"training": entries, "numTraining": len(entries), "test": []}
    tree |= {key: f"{FIELD} {PATIENT}" for key in ("name", "description", "licence", "reference", "release")}
    (root / "dataset.json").write_text(json.dumps(tree))
    return root


def test_the_search_finds_what_is_planted(clinic: Path, tmp_path: Path) -> None:
    scans = files(clinic / "imagesTr")
    assert len(found_in(scans[:1], (FIELD,))) >= 2  # the words and the voxels, inside of gzip
    for number, form in enumerate(spellings(PATIENT)):
        (tmp_path / f"{number}.bin").write_bytes(b"abc" + form + b"xyz")
        assert found_in([tmp_path / f"{number}.bin"], (PATIENT,))


def test_nothing_that_is_shared_names_a_patient(
    clinic: Path, phantoms: Path, config: Path, offline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> str:
        assert main([str(a) for a in arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    cache, model, predictions = tmp_path / USER / "cache", tmp_path / "model", tmp_path / "predictions"
    run("prepare", clinic, phantoms / "Phantom01_Bean", "--cache", cache)
    train = ["--config", config, "--cache", cache, "--tasks.hold_out", "[Phantom01_Bean]", "--meta.num_validation", 1]
    run("meta-train", *train, "--out", offline, "--track.wandb", "true")
    site = shutil.copytree(clinic / "imagesTr", tmp_path / "site" / PATIENT)
    adapt = ["adapt", offline, clinic, "--organ", "left,right", "--shots", 2, "--steps", 2, "--evaluate", 1]
    shown = run(*adapt, "--unlabelled", site, "--unlabelled-steps", 2, "--out", model, "--cache", cache)
    assert PATIENT in shown  # the terminal names the scans
    run("predict", model, clinic, "--out", predictions)
    run("evaluate", model, cache / f"{FOLDER}.h5", "--out", tmp_path / "of_model")
    run("evaluate", "--predictions", predictions, "--labels", clinic / "labelsTr", "--out", tmp_path / "of_folders")

    shared = [
        path for name in ("model", "of_model", "of_folders", "predictions") for path in files(tmp_path / name, PRIVATE_FILE)
    ]
    shared += files(offline, "wandb", "settings.json", "config.json", "artifacts.json")  # the other three are of this machine
    assert {"model.json", "adaptation.json", "overlay.png", "metrics.csv", "summary.json", "last.json"} <= {
        p.name for p in shared
    }
    checkpoints = [path for path in shared if path.name in ("last.json", "best.json", "previous.json")]
    assert not found_in([path for path in shared if path not in checkpoints], PLANTED)
    # a run that stays here names its data sets, so that no scan of them counts as held out
    assert not found_in(checkpoints, (PATIENT, FIELD, USER)) and FOLDER in checkpoints[0].read_text()
    assert not [path for path in shared if path.parent != predictions and PATIENT in path.name]

    names = json.loads((model / PRIVATE_FILE).read_text())
    note = json.loads((model / "adaptation.json").read_text())
    listed = [*note["support"], *note["scored"]]
    assert len(listed) == 3 and all(names["cases"][identifier].startswith(PATIENT) for identifier in listed)
    assert note["unlabelled"]["same_as_support"] and names["dataset"] == FOLDER
    (record,) = (offline / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 30
    while b"best_query_dice" not in record.read_bytes() and time.monotonic() < deadline:  # wandb's own process may still write
        time.sleep(0.1)
    sent = [path for place in (offline / "wandb", tmp_path / "elsewhere") for path in files(place, "logs")]
    assert len(sent) > 5 and record in sent and not found_in(sent, PLANTED)
    # voxels are in the cache alone
    data = open_cache(cache / f"{FOLDER}.h5")
    assert np.count_nonzero(data.image(data.cases[0].name) == BLOCK.max()) == 1


def test_no_images(clinic: Path, config: Path, offline: Path, tmp_path: Path) -> None:
    """``--no-images``: no picture of a scan is drawn or sent; without it, there is one each."""
    cache = tmp_path / "cache"
    assert main(["prepare", str(clinic), "--cache", str(cache)]) == 0
    for name, more in {"run": ["--no-images"], "seen": []}.items():
        out, model = offline.parent / name, tmp_path / f"model_{name}"
        train = ["meta-train", "--config", str(config), "--cache", str(cache), "--meta.num_validation", "1", "--out", str(out)]
        assert main([*train, "--track.wandb", "true", *more]) == 0
        adapt = ["adapt", str(out), str(clinic), "--shots", "1", "--steps", "1", "--evaluate", "0", "--cache", str(cache)]
        assert main([*adapt, "--out", str(model), *more]) == 0
        drawn = {path.name for path in files(model) if path.suffix == ".png"}
        figures = {path.name.partition("_")[0] for path in files(out) if path.suffix == ".png"}
        assert drawn == (set() if more else {"overlay.png"})
        assert ("validation.png" in figures or "validation" in figures) == (not more)


def test_identifiers() -> None:
    ids = CaseIds()
    assert ids.add("one", "ab" * 32) == case_id("ab" * 32) == "case-abababababab" == ids.add("one", "cd" * 32)
    assert ids.add("copy", "ab" * 32) == "case-abababababab-2"  # the same voxels in another file
    assert ids.names() == {"case-abababababab": "one", "case-abababababab-2": "copy"}
    assert dataset_id(["a", "b"]) == dataset_id(["b", "a"]) != dataset_id(["a"])
    assert "Task04_Hippocampus" in known_names() and public_name("Task04_Hippocampus", ["a"]) == "Task04_Hippocampus"
    assert public_name("Jane", ["a"]) == dataset_id(["a"]) == public_name(dataset_id(["a"]), ["b"])


def test_names_in_texts_and_keys() -> None:
    names = {"jane_001": "case-1", "ct": "case-2"}
    note = {
        "scored": {"jane_001": {"ct": 0.5}},
        "told": ["jane_001 lacks the organ", "act of ct", 3, None],
        "task": "ct/jane_001",
    }
    assert renamed(note, names) == {
        "scored": {"case-1": {"case-2": 0.5}},
        "told": ["case-1 lacks the organ", "act of ct", 3, None],
        "task": "case-2/case-1",
    }


@pytest.mark.parametrize(
    "text",
    [
        "/data/x",
        "C:\\scans",
        "jane.nii.gz",
        "jane.NII",
        "x.h5",
        "jane.dcm",
        "see jane.mha here",
        "~",
        "s.nrrd",
        "a/b",
        "list.csv",
    ],
)
def test_places_are_hidden(text: str) -> None:
    assert redact({"any": [text], text: 1}) == {"any": ["(path)"], "(path)": 1}


def test_settings_stay_readable() -> None:
    values = {"lr": 1e-3, "name": "unet_supernet", "names": ["colorization"], "cache": "jane", "none": None, "device": "cuda:0"}
    assert redact(values) == values | {"cache": "(path)"}
