"""The ways in which users' cases are broken, and what the error says for each."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def break_case(root: Path, number: int, kind: str) -> None:
    """Break one case of a data set in the way ``kind``."""
    image_path, label_path = root / f"imagesTr/case_{number}.nii.gz", root / f"labelsTr/case_{number}.nii.gz"
    image, label = (np.asarray(nib.load(path).dataobj) for path in (image_path, label_path))  # type: ignore[attr-defined]
    affine = np.eye(4)
    if kind == "shape":
        label = label[:-1]
    elif kind == "affine":
        affine[0, 3] = 1
    elif kind == "unknown label":
        label[0, 0, 0] = 7
    elif kind == "between":
        label = label + 0.5
    if kind == "truncated":
        image_path.write_bytes(image_path.read_bytes()[:-20])
    elif kind == "bit flip":
        content = bytearray(image_path.read_bytes())
        content[len(content) // 2] ^= 4
        image_path.write_bytes(content)
    elif kind == "missing":
        image_path.unlink()
    elif kind == "NaN":
        nib.save(nib.Nifti1Image(np.where(label, np.nan, image).astype(np.float32), np.eye(4)), image_path)
    elif kind == "channels":
        nib.save(nib.Nifti1Image(np.stack([image, image], -1), np.eye(4)), image_path)
    elif kind == "huge":
        content = bytearray(nib.Nifti1Image(image, np.eye(4)).to_bytes())
        content[42:48] = np.array([30000] * 3, dtype="<i2").tobytes()
        image_path.write_bytes(content)
    else:
        nib.save(nib.Nifti1Image(label, affine), label_path)


KINDS = {
    "shape": "has shape",
    "affine": "mm apart",
    "unknown label": r"unknown label values \[7\]",
    "between": "not whole numbers",
    "truncated": "damaged or not|truncated,",
    "bit flip": "damaged or not|truncated,",
    "missing": "no such file",
    "NaN": "18 voxels of 960 that are NaN",
    "channels": "2 channels",
    "huge": "header claims",
}
