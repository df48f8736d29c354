"""What tests of exports share: a model of two organs, and scans with turned and oblique axes and other spacings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.model import Model

#: words that no export may hold
PLANTED = ("Doe_Jane", "SecretClinic")


@pytest.fixture(scope="session")
def planted(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pair of organs with identifiers in its names: of the folder, of the files and of the description."""
    root = Path(shutil.copytree(phantoms / "Phantom06_Pair", tmp_path_factory.mktemp("planted") / PLANTED[1]))
    tree = json.loads((root / "dataset.json").read_text())
    for folder in ("imagesTr", "labelsTr"):
        for path in (root / folder).iterdir():
            path.rename(path.with_name(f"{PLANTED[0]}_{path.name}"))
    for entry in tree["training"]:
        for key in ("image", "label"):
            path = Path(entry[key])
            entry[key] = f"{path.parent}/{PLANTED[0]}_{path.name}"
    (root / "dataset.json").write_text(json.dumps({**tree, "description": " ".join(PLANTED)}))
    return root


@pytest.fixture(scope="session")
def model_folder(tiny_run: Path, planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of both organs of the planted pair."""
    from metanas_med.engine.support import open_dataset

    root = tmp_path_factory.mktemp("exported")
    data = open_dataset(planted, root / "cache")
    s = AdaptSettings(organ="all", shots=3, steps=2, evaluate=0, device="cpu", precision="float32", images=False)
    adapt(tiny_run, data, root / "model", s)
    return root / "model"


@pytest.fixture
def model(model_folder: Path) -> Model:
    return Model.load(model_folder, "cpu", "float32")


@pytest.fixture(scope="session")
def scans(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three scans: as it is; with turned axes; oblique and anisotropic, larger than a window."""
    root, found = tmp_path_factory.mktemp("scans"), []
    for number, path in enumerate(sorted((planted / "imagesTr").iterdir())[:3]):
        scan: Any = nib.load(path)  # type: ignore[attr-defined]
        array, affine = np.asarray(scan.dataobj), scan.affine.copy()
        if number == 1:
            array, affine = array.transpose(2, 0, 1)[::-1], affine[:, [2, 0, 1, 3]]
            affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
            affine[:3, 0] *= -1
        if number == 2:
            array = np.concatenate([array, array[::-1]])
            c, s = np.cos(0.3), np.sin(0.3)
            affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3] @ np.diag([1, 1, 1.7])
        found.append(root / f"scan{number}.nii.gz")
        nib.save(nib.Nifti1Image(array, affine), found[-1])  # type: ignore[attr-defined]
    return found
