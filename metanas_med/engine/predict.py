"""Prediction: windows over whole planned scans, and label maps in the scan's own geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.patches import coordinates
from ..data.pieces import drop_small
from ..data.plan import Plan
from ..errors import DataError
from ..learner import Runtime
from ..space.ensemble import Ensemble
from ..space.network import SegmentationNet

#: what predicts: a network, or several whose probabilities are averaged
Net = SegmentationNet | Ensemble

#: an axis of up to this many times the view is predicted whole, not in two windows
STRETCH = 1.3
#: largest number of windows in a batch, and of their voxels: torch's float32 convolution of one small window is slow on CPUs.
#: In a batch of four at base width 8, a window takes a fifth of the time (in bf16 0.7 of it)
WINDOWS, VOXELS = 4, 200_000
#: transformed copies of a scan, (rotation in radians, scale) in the plane of its finer axes; as for training patches
LOOKS = ((0.15, 1.0), (-0.15, 1.0), (0.0, 1.12), (0.0, 0.89))


def bytes_a_voxel(num_channels: int, num_organs: int, tta: bool = False) -> int:
    """Return the minimum memory of ``predict_scores`` in bytes per voxel of a planned scan.

    It holds the image, with coordinates, scores and weights; ``tta`` adds the image and scores of one copy and two grids.
    """
    seen, scores = num_channels + 3, num_organs + 1
    return 4 * (num_channels + seen + scores + 1 + (seen + scores + 6 if tta else 0))


@torch.inference_mode()
def predict_scores(net: Net, image: Tensor, plan: Plan, runtime: Runtime, overlap: float = 0.5, tta: bool = False) -> Tensor:
    """Return class probabilities (K + 1, X, Y, Z) float32 of a planned image (C, X, Y, Z), all in plan order.

    Windows have the plan's view size (slightly longer axes are predicted whole) and are blended with Gaussian weights (MONAI's
    ``sliding_window_inference``). ``tta`` averages the probabilities of the image and of its ``LOOKS``, each where it covers the
    voxel (test-time augmentation; Moshkov et al. 2020, Scientific Reports 10:5068), at five times the cost. No copy is mirrored,
    because left and right organs differ only by their side.
    """
    inputs = torch.cat([image, coordinates(image.shape[1:])])[None]
    scores = _windows(net, inputs, plan, runtime, overlap)
    if tta:
        seen = torch.ones(scores.shape[1:])
        for turn, scale in LOOKS:
            there, back = look_grids(turn, scale, image.shape[1:], plan.spacing)
            # coordinates move with the voxels, as in training
            moved = F.grid_sample(inputs, there, padding_mode="border", align_corners=False)
            found = F.grid_sample(_windows(net, moved, plan, runtime, overlap)[None], back, align_corners=False)[0]
            edge = 1.0 - 1.0 / torch.tensor(image.shape[:0:-1], dtype=torch.float32)  # last axis first, as in grids
            shown = (back[0].abs() <= edge + 1e-6).all(-1)  # between voxels of the copy, not beyond them
            scores += found.mul_(shown)
            seen += shown
        scores /= seen
    return scores


def _windows(net: Net, inputs: Tensor, plan: Plan, runtime: Runtime, overlap: float) -> Tensor:
    """Return class probabilities (K + 1, X, Y, Z) of an image with its coordinates, (1, C + 3, X, Y, Z)."""
    from monai.inferers.utils import sliding_window_inference

    num_channels = inputs.shape[1] - 3
    window = [n if n <= STRETCH * v else v for n, v in zip(inputs.shape[2:], plan.view, strict=True)]

    def run(patch: Tensor) -> Tensor:
        with runtime.autocast():
            logits = net(runtime.place(patch[:, :num_channels]), patch[:, num_channels:], plan.strides)
        return logits.float().softmax(1)

    together = max(1, min(WINDOWS, VOXELS // math.prod(window)))
    scores = sliding_window_inference(
        inputs, window, together, run, overlap=overlap, mode="gaussian", sw_device=runtime.device, device=torch.device("cpu")
    )
    assert isinstance(scores, Tensor)
    return scores[0]


def look_grids(turn: float, scale: float, shape: Sequence[int], spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return ``grid_sample`` grids (1, X, Y, Z, 3) that rotate and scale a scan in the plane of its first two axes, and back.

    The rotation is rigid in millimetres, for any ``shape`` and ``spacing``.
    """
    x, y = (n * s for n, s in zip(shape[:2], spacing[:2], strict=True))
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = torch.eye(3, 4)  # last axis first
    matrix[1:, 1:3] = torch.tensor([[cos, sin * x / y], [-sin * y / x, cos]]) / scale
    inverse = torch.eye(3, 4)
    inverse[:, :3] = torch.linalg.inv(matrix[:, :3])
    there, back = (F.affine_grid(m[None], [1, 1, *shape], align_corners=False) for m in (matrix, inverse))
    return there, back


def predict_labels(net: Net, image: Tensor, plan: Plan, shape: Sequence[int], runtime: Runtime, tta: bool = False) -> np.ndarray:
    """Return the organ map (X, Y, Z) uint8 in canonical axes and ``shape`` (native spacing) of a planned image.

    Small pieces are dropped for organs that the plan marks as one piece. ``tta``: as in ``predict_scores``.
    """
    return labels_of(predict_scores(net, image, plan, runtime, tta=tta), plan, shape)


def labels_of(scores: Tensor, plan: Plan, shape: Sequence[int]) -> np.ndarray:
    """Return the organ map (X, Y, Z) uint8, in canonical axes and ``shape``, of class probabilities in plan order.

    Small pieces are dropped for organs that the plan marks as one piece. Raises DataError for scores that are not finite.
    """
    check_finite(scores)
    labels = plan.invert_labels(scores, shape)
    return drop_small(labels.numpy(), plan.in_one_piece)


def check_finite(scores: Tensor) -> None:
    """Raise DataError if scores are not finite."""
    if not bool(torch.isfinite(scores).all()):
        raise DataError("the network's scores of this scan are not finite; check its intensities, or adapt again")
