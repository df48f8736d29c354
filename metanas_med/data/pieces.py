"""Connected pieces of organs: which organs are in one piece in the support, and removal of small pieces from predictions.

A network fitted to a few scans often finds the organ and something similar far away. nnU-Net (Isensee et al. 2021,
supplement, "postprocessing") keeps the largest piece of a class if cross-validation says that this helps. A few support scans
are not enough for cross-validation, so here their labels decide, and only small pieces are dropped: a prediction split in
halves keeps both. Cost: one connected-component labelling of the box around each organ, for planned maps and for predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import ndimage

#: voxels are connected by faces, edges and corners
_TOUCH = np.ones((3, 3, 3), dtype=bool)
#: share of an organ's voxels that its largest piece must hold in every support scan: stray annotated voxels are tolerated
SHARE = 0.95
#: scans that must show the organ: with fewer, single lesions would too often be treated like organs that are always in one piece
LEAST_SCANS = 3
#: pieces of a prediction smaller than this share of the largest piece are dropped
SMALL = 0.25


def in_one_piece(labels: Sequence[np.ndarray], num_organs: int) -> tuple[bool, ...]:
    """Return for organs 1..``num_organs`` whether they are in one piece in all maps (X, Y, Z) that show them, at least three."""
    shares: list[list[float]] = [[] for _ in range(num_organs)]
    for label in labels:
        for k, box in enumerate(ndimage.find_objects(label, num_organs)):
            if box is not None:
                sizes = np.bincount(_pieces(label[box] == k + 1)[0].ravel())[1:]
                shares[k].append(float(sizes.max() / sizes.sum()))
    return tuple(len(found) >= LEAST_SCANS and min(found) >= SHARE for found in shares)


def drop_small(label: np.ndarray, organs: Sequence[bool]) -> np.ndarray:
    """Return ``label`` (X, Y, Z), changed in place: the small pieces of every organ k with ``organs[k - 1]`` become 0."""
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


def count_pieces(mask: np.ndarray) -> int:
    """Return the number of connected pieces of ``mask`` (X, Y, Z)."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    return _pieces(mask[box[0]])[1] if box else 0


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the pieces of ``mask``, numbered from 1, and how many there are."""
    return cast("tuple[np.ndarray, int]", ndimage.label(mask, _TOUCH))
