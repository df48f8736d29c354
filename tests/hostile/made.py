"""A small data set in MSD layout that the corpus damages, and what its cache must hold."""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np

CASES = ("case_0", "case_1", "case_2")
GRID = (8, 9, 7)
CARD = "dataset: Toy\ngroup: toy\nmodality: CT\n"
PLACE = np.diag([1.0, 1.5, 2.0, 1.0])


def image_of(number: int) -> np.ndarray:
    """Return the voxels of one scan."""
    return np.random.default_rng(number).integers(-200, 900, GRID).astype(np.int16)


def label_of(number: int) -> np.ndarray:
    """Return the label map of one scan: two organs."""
    label = np.zeros(GRID, np.uint8)
    label[1:4, 2:5, 1 + number : 3 + number], label[5, 6, 4] = 1, 2
    return label


def tree_of() -> dict[str, Any]:
    """Return the data set's dataset.json."""
    return {
        "name": "Toy",
        "description": "two organs",
        "licence": "none",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "first", "2": "second"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in CASES],
        "test": [],
    }


def save(path: Path, array: np.ndarray, affine: np.ndarray = PLACE) -> Path:
    """Return ``path`` after writing a NIfTI file there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(nib.Nifti1Image(array, affine, dtype=array.dtype).to_bytes(), 1, mtime=0))
    return path


def make_set(folder: Path) -> Path:
    """Return the folder of a whole data set of three cases."""
    root = folder / "Toy"
    for place in ("imagesTr", "labelsTr"):
        (root / place).mkdir(parents=True, exist_ok=True)
    for place, content in _contents().items():
        (root / place).write_bytes(content)
    return root


@lru_cache
def _contents() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        arrays = [("imagesTr", image_of), ("labelsTr", label_of)]
        files = {
            f"{place}/{name}.nii.gz": save(Path(scratch) / place / name, array(number)).read_bytes()
            for place, array in arrays
            for number, name in enumerate(CASES)
        }
    # with a card of its own, the shipped cards are not read for every fault
    return {**files, "dataset.json": json.dumps(tree_of()).encode(), "card.yaml": CARD.encode()}


def arrays_in(cache: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a cache file, read with h5py alone."""
    opened: Any = h5py.File(cache, "r", locking=False)  # its stubs do not know what is in it
    with opened as file:
        return {f"{kind}/{name}": file[kind][name][()] for kind in ("images", "labels") if kind in file for name in file[kind]}


def right_arrays(*left_out: str) -> dict[str, np.ndarray]:
    """Return the arrays that a cache of the data set must hold, without some cases."""
    found = {}
    for number, name in enumerate(CASES):
        if name not in left_out:
            found[f"images/{name}"], found[f"labels/{name}"] = image_of(number)[np.newaxis], label_of(number)
    return found
