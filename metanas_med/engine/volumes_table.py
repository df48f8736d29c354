"""The table of volumes: for each predicted scan and organ ml, pieces, and whether the organ touches the border of the scan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.pieces import count_pieces

COLUMNS = ("scan", "organ", "label", "ml", "pieces", "touches_border")


def volume_rows(scan: str, labels: np.ndarray, affine: np.ndarray, organs: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return one row for each of ``organs`` (name by label value) of a label map (X, Y, Z) with ``affine`` (4, 4), voxels to mm.

    Pieces are connected by faces, edges and corners. An axis of one voxel has no border: a single slice touches it in the plane.
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    rows = []
    for value, name in organs.items():
        mask = labels == value
        border = any(bool(np.take(mask, side, axis).any()) for axis in range(3) for side in (0, -1) if mask.shape[axis] > 1)
        ml = float(f"{int(mask.sum()) * voxel_ml:.6g}")
        rows.append(
            {"scan": scan, "organ": name, "label": value, "ml": ml, "pieces": count_pieces(mask), "touches_border": int(border)}
        )
    return rows
