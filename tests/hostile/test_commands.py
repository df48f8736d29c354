"""The commands on hostile input: exit code 2, an error that names the file, all bad cases in one table, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metanas_med.cli import main

from . import cache_faults, checkpoint_faults, config_faults
from .checkpoint_faults import TENSOR_FAULTS
from .config_faults import CONFIG_FAULTS
from .corpus import Fault
from .made import CASES, arrays_in, image_of, label_of, make_set, right_arrays, save, tree_of
from .nifti_faults import NIFTI_FAULTS

BAD = [fault for fault in NIFTI_FAULTS if fault.right is None and not fault.valid]


def with_bad_scans(folder: Path) -> Path:
    """Return a data set of three good cases and one of every NIfTI fault that must be refused."""
    root, tree = make_set(folder), tree_of()
    for number, fault in enumerate(BAD):
        name = f"bad_{number:03}.nii.gz"
        place = folder / "made" / name
        place.mkdir(parents=True)
        fault.make(place).rename(root / "imagesTr" / name)
        save(root / "labelsTr" / name, label_of(0))
        tree["training"].insert(number // 2, {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (root / "dataset.json").write_text(json.dumps(tree))
    return root


def test_all_bad_scans_are_in_one_table_and_can_be_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, cache = with_bad_scans(tmp_path), tmp_path / "cache"
    names = [f"bad_{number:03}" for number in range(len(BAD))]
    assert len(BAD) > 100
    assert main(["prepare", str(root), "--cache", str(cache)]) == 2
    shown = capsys.readouterr()
    assert f"error: {len(BAD)} problem(s) in the data; nothing was written" in shown.err and "Traceback" not in shown.err
    assert [name for name in names if name not in shown.out] == []
    assert not any(name in shown.out for name in CASES)
    assert not list(cache.glob("*"))
    assert main(["prepare", str(root), "--cache", str(cache), "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("set aside: Toy bad_") == len(BAD)
    found, expected = arrays_in(cache / "Toy.h5"), right_arrays()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def _made(faults: list[Fault], text: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return next(fault for fault in faults if text in fault.name).make(folder)


def _model(folder: Path) -> Path:
    place = folder / "model"
    place.mkdir()
    for name, content in checkpoint_faults.contents("model").items():
        (place / name).write_bytes(content)
    return place


def _scan(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", image_of(0))


Words = Callable[[Path], list[str | Path]]
COMMANDS: dict[str, tuple[str, Words]] = {
    "predict with a pickle": (
        "model.safetensors",
        lambda f: ["predict", _made(TENSOR_FAULTS, "a pickle (model)", f / "m").parent, _scan(f), "--out", f / "out"],
    ),
    "predict of a truncated scan": (
        "case.nii",
        lambda f: ["predict", _model(f), _made(NIFTI_FAULTS, ".nii after 353 bytes", f / "s"), "--out", f / "out"],
    ),
    "predict of a pipe": (
        "case.nii.gz",
        lambda f: ["predict", _model(f), _made(NIFTI_FAULTS, "special files: a pipe", f / "s"), "--out", f / "out"],
    ),
    "adapt of a zip for a run": (
        "last.safetensors",
        lambda f: ["adapt", _made(TENSOR_FAULTS, "a zip with a pickle (run)", f / "r").parent, make_set(f), "--out", f / "out"],
    ),
    "adapt to a cache that reads elsewhere": (
        "Toy.h5",
        lambda f: [
            *("adapt", Path(__file__).parents[2] / "metanas_med/starts/demo"),
            *(
                _made(cache_faults.CACHE_FAULTS, "an external link for an image", f / "c"),
                "--support",
                "case_1",
                "--out",
                f / "out",
            ),
        ],
    ),
    "meta-train with a call of os.system": (
        "given.yaml",
        lambda f: [
            "meta-train",
            "--config",
            _made(CONFIG_FAULTS, "settings of a run: a call of os.system", f / "y"),
            "--out",
            f / "out",
        ],
    ),
    "meta-train with a billion laughs": (
        "given.yaml",
        lambda f: [
            "meta-train",
            "--config",
            _made(CONFIG_FAULTS, "settings of a run: a billion laughs", f / "y"),
            "--out",
            f / "out",
        ],
    ),
    "meta-train with a damaged cache": (
        "Toy.h5",
        lambda f: [
            *("meta-train", "--out", f / "out", "--cache"),
            _made(cache_faults.CACHE_FAULTS, "damaged cache: after 5000 bytes", f / "c").parent,
        ],
    ),
    "evaluate of a folder with a device": (
        "case.nii.gz",
        lambda f: [
            *("evaluate", "--predictions", _made(NIFTI_FAULTS, "special files: an endless device", f / "p").parent),
            *("--labels", save(f / "l" / "case.nii.gz", label_of(0)).parent, "--out", f / "out"),
        ],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_refuses_hostile_input_and_writes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "user-cache"))
    named, words = COMMANDS[name]
    argv = [str(word) for word in words(tmp_path)]
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    shown = capsys.readouterr()
    assert code == 2 and "Traceback" not in shown.err
    assert "error:" in shown.err and named in shown.err + shown.out, shown.err
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("executed")) and not Path(config_faults.PLANTED).exists()


def test_a_process_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    path = _made(NIFTI_FAULTS, "a second zipped file", tmp_path / "s")
    words = ["predict", _model(tmp_path), path, "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "metanas_med.cli", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "error:" in done.stderr and path.name in done.stderr and "Traceback" not in done.stderr
