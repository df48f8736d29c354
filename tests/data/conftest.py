"""Tiny data sets in MSD layout, written by the test that needs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

SaveNifti = Callable[..., Path]
MakeMsd = Callable[..., Path]


@pytest.fixture
def save_nifti() -> SaveNifti:
    """``save_nifti(path, array, affine=None, **header fields)`` writes a NIfTI file with nibabel and returns its path."""

    def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
        for field, value in fields.items():
            image.header[field] = value
        nib.save(image, path)
        return path

    return save


@pytest.fixture
def make_msd(tmp_path: Path, save_nifti: SaveNifti) -> MakeMsd:
    """``make_msd(name, num_cases, ...)`` writes a data set with every organ in every case and returns its folder."""

    def make(
        name: str = "Toy",
        num_cases: int = 3,
        channels: int = 1,
        labels: tuple[str, ...] = ("first", "second"),
        affine: np.ndarray | None = None,
        shape: tuple[int, int, int] = (10, 12, 8),
        seed: int = 0,
    ) -> Path:
        root = tmp_path / "sets" / name
        random = np.random.default_rng(seed)
        for number in range(num_cases):
            image = random.integers(-100, 1000, (*shape, channels) if channels > 1 else shape).astype(np.int16)
            label = np.zeros(shape, dtype=np.uint8)
            for value in range(1, len(labels) + 1):
                label[value, 2:5, 3:6] = value
            save_nifti(root / "imagesTr" / f"case_{number}.nii.gz", image, affine)
            save_nifti(root / "labelsTr" / f"case_{number}.nii.gz", label, affine)
        tree = {
            "name": name,
            "modality": {str(channel): "MRI" for channel in range(channels)},
            "labels": {"0": "background", **{str(value): organ for value, organ in enumerate(labels, 1)}},
            "training": [
                {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
                for number in range(num_cases)
            ],
            "test": [],
        }
        (root / "dataset.json").write_text(json.dumps(tree))
        return root

    return make


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """``edit_json(root, key=value, ...)`` changes keys of a folder's dataset.json; the value None removes the key."""

    def edit(root: Path, **changes: Any) -> None:
        path = root / "dataset.json"
        tree = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))

    return edit


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """A folder for the cache that does not exist yet."""
    return tmp_path / "cache"
