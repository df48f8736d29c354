"""The value of ignored voxels in organ maps: voxels that nobody annotated count in no loss, head, normalisation or metric."""

import numpy as np

#: in organ maps, uint8 or int64; organs are 1..K with K far below it
IGNORED = 255


def known_only(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of two organ maps (X, Y, Z) in which voxels that the truth ignores are background, for metrics and pictures."""
    ignored = truth == IGNORED
    return np.where(ignored, 0, truth), np.where(ignored, 0, prediction)
