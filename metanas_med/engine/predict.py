"""Prediction: windows over whole planned scans, and label maps in the scan's own geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.patches import coordinates
from ..data.pieces import drop_small
from ..data.plan import Plan
from ..errors import DataError
from ..learner import Runtime
from ..space.network import SegmentationNet

#: an axis that is longer than the view by less than this factor is taken whole, not cut into two windows
STRETCH = 1.3
#: small windows are taken together: torch's float32 convolution of a single small one is slow on CPUs (four at once: a fifth of the time a
#: window at base width 8; in bf16 0.7 of it); so many at most, and so many voxels
WINDOWS, VOXELS = 4, 200_000


def least_bytes(shape: Sequence[int], num_channels: int, num_organs: int) -> int:
    """Return what ``predict_scores`` holds at once, at the least, of a planned scan of ``shape``: the image, with coordinates, scores, weights."""
    return 4 * math.prod(shape) * (num_channels + (num_channels + 3) + (num_organs + 1) + 1)


@torch.inference_mode()
def predict_scores(net: SegmentationNet, image: Tensor, plan: Plan, runtime: Runtime, overlap: float = 0.5) -> Tensor:
    """Return class probabilities (K + 1, X, Y, Z) float32 of a planned image (C, X, Y, Z), all in plan order.

    Windows have the plan's view size (an axis that is little longer is taken whole) and are blended with Gaussian weights (MONAI's
    ``sliding_window_inference``).
    """
    from monai.inferers.utils import sliding_window_inference

    num_channels = image.shape[0]
    inputs = torch.cat([image, coordinates(image.shape[1:])])[None]
    window = [n if n <= STRETCH * v else v for n, v in zip(image.shape[1:], plan.view, strict=True)]

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


def predict_labels(net: SegmentationNet, image: Tensor, plan: Plan, shape: Sequence[int], runtime: Runtime) -> np.ndarray:
    """Return the organ map (X, Y, Z) uint8 in canonical axes and ``shape`` (native spacing) of a planned image.

    Of organs that the plan knows in one piece, small pieces are dropped.
    """
    scores = predict_scores(net, image, plan, runtime)
    if not bool(torch.isfinite(scores).all()):
        raise DataError("the network's scores of this scan are not finite; check its intensities, or adapt anew")
    labels = plan.invert_labels(scores, shape)
    return drop_small(labels.numpy(), plan.in_one_piece)
