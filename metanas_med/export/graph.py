"""The network of a model as one graph: image channels and coordinates in, class probabilities out, in float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.patches import coordinates
from ..engine.model import Model

#: what every export says about itself
RESEARCH_ONLY = "Research only. Not a medical device; not tested for clinical use. Check every result."


class Graph(nn.Module):
    """``image`` (B, C + 3, X, Y, Z) float32, planned channels then coordinates of the whole scan; ``pred`` (B, K + 1, X, Y, Z)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.net = model.net.float().eval()
        self.strides, self.num_channels = model.plan.strides, len(model.plan.intensities)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.net(image[:, : self.num_channels], image[:, self.num_channels :], self.strides)
        return logits.float().softmax(1)


def sample_of(model: Model, batch: int = 2) -> Tensor:
    """Return an input (batch, C + 3, X, Y, Z) of the view's size, of noise; a batch of 1 would fix that axis of an exported graph."""
    view, channels = model.plan.view, len(model.plan.intensities)
    image = torch.randn((batch, channels, *view), generator=torch.Generator().manual_seed(0))
    return torch.cat([image, coordinates(view).expand(batch, -1, -1, -1, -1)], 1)


def dynamic_axes(model: Model) -> dict[int, Any]:
    """Return which axes of the input may change: batch, X, Y and Z; an axis of one voxel stays one."""
    free = torch.export.Dim.DYNAMIC  # not AUTO, which may fix a size without a word
    return {0: free, **{2 + axis: free for axis, size in enumerate(model.plan.view) if size > 1}}


def measured(run: Callable[[np.ndarray], Any], model: Model, repeats: int = 3) -> dict[str, Any]:
    """Return the seconds of a window of the view's size, the smallest of ``repeats`` runs after a first one, on this machine."""
    from ..machine import cpu_model, num_cores

    window = sample_of(model, 1).numpy()
    run(window)
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run(window)
        taken.append(time.perf_counter() - begin)
    # image, output and the largest map of features, four bytes each: what any runtime needs
    held = 4 * int(np.prod(model.plan.view)) * (window.shape[1] + model.task.num_organs + 1 + max(model.space.widths))
    return {
        "window": list(model.plan.view),
        "window_seconds": round(min(taken), 4),
        "least_window_bytes": held,
        "machine": f"{cpu_model()}, {num_cores()} core(s), {torch.get_num_threads()} thread(s)",
    }
