"""Windows over whole planned scans, blended as in training's own prediction."""

from __future__ import annotations

import torch
from monai.inferers import Inferer

from .plan import probabilities


class PlanInferer(Inferer):
    """Returns probabilities (B, K + 1, X, Y, Z) of inputs (B, C + 3, X, Y, Z); ``view`` is the window's size in voxels."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def __call__(self, inputs, network, *args, **kwargs):
        def run(window):
            with torch.inference_mode():
                return network(torch.from_numpy(window).to(inputs.device), *args, **kwargs).cpu().numpy()

        found = [probabilities(image.detach().cpu().numpy(), run, self.view) for image in inputs]
        return torch.stack([torch.from_numpy(scores) for scores in found]).to(inputs.device)
