"""Connected pieces of organs: whether support scans hold an organ in one, and predictions without the crumbs beside it.

What a few scans teach is often found twice: the organ, and something like it far away. nnU-Net (Isensee et al. 2021, supplement, "postprocessing")
keeps the largest piece of a class where cross-validation says that it helps; a handful of scans has none to spare for that, so here their labels
decide, and a prediction in halves stays whole. Cost: one labelling of the box around each organ, of planned maps and of predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import ndimage

#: voxels touch by faces, edges and corners
_TOUCH = np.ones((3, 3, 3), dtype=bool)
#: share of an organ's voxels that its largest piece must hold in every support scan: crumbs of an annotation are no second piece
SHARE = 0.95
#: scans that must show it: with fewer, lesions that come alone in them are too often taken for organs that come alone everywhere
LEAST_SCANS = 3
#: pieces of a prediction under this share of the largest are dropped
SMALL = 0.25


def in_one_piece(labels: Sequence[np.ndarray], num_organs: int) -> tuple[bool, ...]:
    """Return for organs 1..``num_organs`` whether all maps (X, Y, Z) that hold it, three at least, have ``SHARE`` of it in one piece."""
    shares: list[list[float]] = [[] for _ in range(num_organs)]
    for label in labels:
        for k, box in enumerate(ndimage.find_objects(label, num_organs)):
            if box is not None:
                sizes = np.bincount(_pieces(label[box] == k + 1)[0].ravel())[1:]
                shares[k].append(float(sizes.max() / sizes.sum()))
    return tuple(len(found) >= LEAST_SCANS and min(found) >= SHARE for found in shares)


def drop_small(label: np.ndarray, organs: Sequence[bool]) -> np.ndarray:
    """Return ``label`` (X, Y, Z), changed in place: of every organ k with ``organs[k - 1]``, pieces under ``SMALL`` of the largest become 0."""
    for organ, (chosen, box) in enumerate(zip(organs, ndimage.find_objects(label), strict=False), start=1):
        if box is None or not chosen:
            continue
        inside = label[box]
        pieces, count = _pieces(inside == organ)
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            small = sizes < SMALL * sizes[1:].max()
            small[0] = False
            inside[small[pieces]] = 0
    return label


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the pieces of ``mask``, numbered from 1, and how many there are."""
    return cast("tuple[np.ndarray, int]", ndimage.label(mask, _TOUCH))
