"""A data set whose label maps ignore a part of each scan, for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

IGNORE = 9


def with_ignored(source: Path, root: Path, seed: int) -> Path:
    """Return a copy whose label maps ignore a third of each scan, where its images hold random values."""
    shutil.copytree(source, root)
    tree = json.loads((root / "dataset.json").read_text())
    tree["labels"] = {**tree["labels"], str(IGNORE): "ignore"}
    (root / "dataset.json").write_text(json.dumps(tree))
    random = np.random.default_rng(seed)
    for path in sorted((root / "labelsTr").iterdir()):
        image: Any = nib.load(root / "imagesTr" / path.name)  # type: ignore[attr-defined]
        label: Any = nib.load(path)  # type: ignore[attr-defined]
        values, labels = np.asarray(image.dataobj).copy(), np.asarray(label.dataobj).astype(np.uint8)
        cut = values.shape[0] // 3
        labels[:cut] = IGNORE
        values[:cut] = random.integers(-2000, 3000, values[:cut].shape).astype(values.dtype)
        nib.save(nib.Nifti1Image(values, image.affine), root / "imagesTr" / path.name)  # type: ignore[attr-defined]
        nib.save(nib.Nifti1Image(labels, label.affine), path)  # type: ignore[attr-defined]
    return root
