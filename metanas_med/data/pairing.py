"""A label map on the voxels of its scan: turned into the scan's axes, or what is wrong with its geometry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .nifti import off_grid
from .orientation import SAME, agree, turn_onto
from .volumes import read_forms


@dataclass(frozen=True)
class Placed:
    """A label map (X, Y, Z) in the axes of its scan, its affine (4, 4) there, and what was assumed (empty: nothing)."""

    labels: np.ndarray
    affine: np.ndarray
    note: str = ""


def place_label(
    scan: Path,
    scan_shape: tuple[int, int, int],
    scan_affine: np.ndarray,
    label: Path,
    labels: np.ndarray,
    label_affine: np.ndarray,
    like_scan: bool = False,
) -> Placed:
    """Return ``labels`` (X, Y, Z) of the file ``label`` in the axes of ``scan``.

    A label map that agrees with the scan only by its qform, or by that of the scan, is accepted with a note. ``like_scan`` does
    the same for any label map of the scan's shape. Raises DataError otherwise.
    """
    turn = turn_onto(scan_shape, scan_affine, labels.shape, label_affine)
    if turn == SAME:
        return Placed(labels, label_affine)
    (scan_forms, scan_coded), (label_forms, label_coded) = read_forms(scan), read_forms(label)
    coded = scan_coded and label_coded  # without an orientation in the header, a turn would follow from a guess
    if turn and coded:
        guess = "the affine of the label map is the identity: turned into the axes of the scan, check it"
        note = guess if np.allclose(label_affine, np.eye(4), atol=1e-6) else ""
        return Placed(turn.apply(labels), turn.turned_affine(label_affine, labels.shape), note)
    for of_scan, scan_form in enumerate(scan_forms):
        for of_label, label_form in enumerate(label_forms):
            turn = turn_onto(scan_shape, scan_form, labels.shape, label_form)
            if (of_scan or of_label) and turn and (coded or turn == SAME):
                return Placed(turn.apply(labels), scan_affine, _FORMS[bool(of_scan), bool(of_label)])
    problem = off_grid(scan_shape, scan_affine, labels.shape, label_affine, (str(scan), str(label)))
    if labels.shape != scan_shape:
        raise DataError(problem)
    if like_scan:
        return Placed(labels, scan_affine, "the label map has the shape of the scan, not its geometry: that of the scan taken")
    why = _why(scan_shape, scan_affine, scan_coded, label_affine, label_coded)
    raise DataError(f"{problem}. {why} If it was drawn on this scan, --labels-like-images gives it the geometry of the scan")


#: what is assumed where a label map agrees with (the scan's qform?, by its own qform?)
_FORMS = {
    (True, False): "the label map agrees with the scan's qform, not with its sform: same voxels assumed",
    (False, True): "the label map agrees with the scan by its qform, not by its sform: qform taken",
    (True, True): "scan and label map agree by their qforms, not by their sforms: same voxels assumed",
}


def _why(shape: tuple[int, int, int], scan: np.ndarray, scan_coded: bool, label: np.ndarray, label_coded: bool) -> str:
    """Return what a label map of the scan's shape that lies elsewhere has lost, as a sentence."""
    if not label_coded:
        return "The label map's header has no orientation (sform and qform codes are 0)."
    if not scan_coded:
        return "The scan's header has no orientation (sform and qform codes are 0), the label map's has."
    if np.allclose(label, np.eye(4), atol=1e-6):
        return "The label map's affine is the identity: its geometry was lost."
    if agree(shape, scan, np.diag([-1.0, -1.0, 1.0, 1.0]) @ label):
        return "The label map has x and y of the opposite sign: LPS coordinates were written as RAS."
    sizes, own = (np.linalg.norm(affine[:3, :3], axis=0) for affine in (scan, label))
    if not np.allclose(sizes, own, rtol=0.01):
        return f"The scan's voxels have {_mm(sizes)} mm, those of the label map {_mm(own)} mm."
    moved = label.copy()
    moved[:3, 3] = scan[:3, 3]
    if agree(shape, scan, moved):
        return "The label map has the axes of the scan, but another origin."
    return "The label map has the voxel size of the scan, but other axes."


def _mm(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
