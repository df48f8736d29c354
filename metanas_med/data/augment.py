"""Augmentation of training patches by MONAI: small affine maps of image, coordinates and label, then intensity changes.

No flips: left and right organs are told apart by side alone. No scaling or shift of intensities: the norm behind the stem undoes both.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import RandAdjustContrastd, RandGaussianNoised, RandGaussianSmoothd
from monai.transforms.spatial.dictionary import RandAffined

from .plan import Triple

Patch = dict[str, torch.Tensor]


class Augmentation:
    """Changes patches of ``image`` (C, X, Y, Z), ``coords`` (3, X, Y, Z) and ``label`` (1, X, Y, Z), float32; ``seed`` decides how.

    Half of them are warped, a tenth to a fifth each blurred, changed in contrast or made noisy. Cost: a warp of 30000 voxels takes some
    6 ms of a core, most of it trilinear interpolation in double precision.
    """

    def __init__(self, seed: int, view: Triple) -> None:
        # MONAI turns the voxel grid: out of the plane of a few thick slices, 0.2 would carry the view's edge over half of them
        tilt = 0.2 * min(1.0, view[2] / max(view[:2]))
        self._warp = RandAffined(
            ["image", "coords", "label"],
            prob=0.5,
            rotate_range=(tilt, tilt, 0.3),
            scale_range=(0.15, 0.15, 0.15),
            translate_range=(2, 2, 1),
        )
        self.intensities = Compose(
            [
                RandGaussianSmoothd(["image"], prob=0.1, sigma_x=(0.3, 0.8), sigma_y=(0.3, 0.8), sigma_z=(0.3, 0.8)),
                RandAdjustContrastd(["image"], prob=0.2, gamma=(0.7, 1.5), retain_stats=True),
                RandGaussianNoised(["image"], prob=0.2, std=0.15),
            ]
        )
        Compose([self._warp, *self.intensities.transforms]).set_random_state(seed=seed)

    def __call__(self, patch: Patch) -> Patch:
        """Return the patch changed, plain tensors all: MONAI's own keep books that would double the cost of every later operation."""
        patch = self._warped(patch)
        changed: Any = self.intensities({"image": patch["image"]})
        return {**patch, "image": _plain(changed["image"])}

    def _warped(self, patch: Patch) -> Patch:
        """Return what calling RandAffined would, for two thirds of its time: image and coordinates go through one resampling, and no
        matrix is kept for an inverse that nobody asks for."""
        warp = self._warp
        warp.randomize(None)
        affine = warp.rand_affine
        affine.randomize()
        if not warp._do_transform:
            return patch
        shape = patch["label"].shape[1:]
        grid = affine.rand_affine_grid(shape, grid=affine.get_identity_grid(shape, lazy=False))
        for _ in warp.keys:
            affine.randomize()  # so does RandAffined for every key, and results of before are to be had again
        channels = len(patch["image"])
        moved = _plain(
            affine.resampler(torch.cat([patch["image"], patch["coords"]]), grid, mode="bilinear", padding_mode="border")
        )
        label = _plain(affine.resampler(patch["label"], grid, mode="nearest", padding_mode="border"))
        return {"image": moved[:channels], "coords": moved[channels:], "label": label}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)
