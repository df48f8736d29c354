"""Runs that learn from made-up volumes: alone, mixed with organ tasks, without labels, before an adaptation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from metanas_med.cli import main
from metanas_med.data.cache import prepare
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import MetaTraining, meta_train
from metanas_med.engine.search import search_architecture
from metanas_med.engine.settings import Settings
from metanas_med.errors import DataError

MakeSettings = Callable[..., Settings]
MADE_UP = {"pretext.names": ("synthesis",), "plan.view_voxels": 1000, "meta.iterations": 1}


def test_a_mixed_run_learns_from_label_maps_and_can_be_resumed(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    changes = {**MADE_UP, "pretext.mix": 0.5, "tasks.hold_out": ("Phantom06_Pair",)}
    run = MetaTraining(tiny_settings(**changes), tmp_path / "draws", False)
    assert run.pretexts and sorted(run.pretexts.makers["synthesis"].library.datasets) == [  # type: ignore[attr-defined]
        "Phantom01_Bean",
        "Phantom05_ShellCore",
    ]
    source = run.episodes(0)
    drawn = [next(source)[1].task.dataset for _ in range(30)]
    assert 8 < drawn.count("pretext-synthesis") < 22 and len(set(drawn)) == 3
    whole, part = (meta_train(tiny_settings(**{**changes, "meta.iterations": n}), tmp_path / str(n)) for n in (2, 1))
    note = load_state(whole, "last", "meta-state")[1]
    assert note["pretext"] == {"sets": [], "scans": 0, "set_aside": 0}
    assert {key.split("/")[0] for key in MetaRun.load(whole).train_tasks} == {"Phantom01_Bean", "Phantom05_ShellCore"}
    meta_train(tiny_settings(**{**changes, "meta.iterations": 2}), part, resume=True)
    states = [load_state(folder, "last", "meta-state")[0] for folder in (whole, part)]
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_a_search_by_made_up_volumes_reads_no_label(phantoms: Path, tiny_settings: MakeSettings, tmp_path: Path) -> None:
    """No byte of the state changes with the labels."""
    states = []
    for kind in ("own", "changed"):
        data = Path(shutil.copytree(phantoms / "Phantom01_Bean", tmp_path / kind / "Phantom01_Bean"))
        for path in (data / "labelsTr").glob("*.nii.gz") if kind == "changed" else ():
            image = nib.load(path)  # type: ignore[attr-defined]
            turned = np.asarray(image.dataobj)[::-1].copy()  # type: ignore[attr-defined]
            nib.save(nib.Nifti1Image(turned, image.affine, image.header), path)  # type: ignore[attr-defined]
        out = search_architecture(tiny_settings(**MADE_UP), [data], tmp_path / f"run_{kind}", "synthesis")
        states.append((out / "last.safetensors").read_bytes())
    assert states[0] == states[1]


def test_adapt_after_steps_on_made_up_volumes(tiny_run: Path, phantoms: Path, tmp_path: Path) -> None:
    pair = phantoms / "Phantom06_Pair"
    steps = ["--unlabelled", str(phantoms / "Phantom01_Bean"), "--pretext", "synthesis", "--unlabelled-steps", "3"]
    model = tmp_path / "model"
    given = ["adapt", str(tiny_run), str(pair), "--organ", "left", "--shots", "1", "--steps", "1", "--out", str(model), *steps]
    assert main(given) == 0
    note = json.loads((model / "adaptation.json").read_text())["unlabelled"]
    assert note["steps"] == 3 and note["pretexts"] == ["synthesis"] and note["num_scans"] == 0


def test_without_label_maps_nothing_is_written(phantoms: Path, tiny_settings: MakeSettings, tmp_path: Path) -> None:
    """Organs of a few voxels give tasks, but no shapes."""
    data = Path(shutil.copytree(phantoms / "Phantom01_Bean", tmp_path / "Phantom01_Bean"))
    for path in (data / "labelsTr").glob("*.nii.gz"):
        image = nib.load(path)  # type: ignore[attr-defined]
        label = np.zeros(image.shape, np.uint8)  # type: ignore[attr-defined]
        label[4:6, 4:6, 4:6] = 1
        nib.save(nib.Nifti1Image(label, image.affine), path)  # type: ignore[attr-defined]
    prepare([data], tmp_path / "cache")
    settings = tiny_settings(**{**MADE_UP, "pretext.mix": 0.5}, cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"found Phantom01_Bean \(6 scans\) without an organ.*organs 0"):
        meta_train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    settings = tiny_settings(**{**MADE_UP, "pretext.mix": 0.5, "pretext.synthesis.organs": 0.0}, cache=str(tmp_path / "cache"))
    assert (meta_train(settings, tmp_path / "run") / "last.json").exists()
