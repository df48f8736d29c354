"""Augmentation of training patches by MONAI: small affine maps of image, coordinates and label, then intensity changes.

There are no flips: only the side distinguishes left organs from right ones. Intensities are not scaled or shifted: the norm
after the stem undoes both.
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
    """Random changes of patches: ``image`` (C, X, Y, Z), ``coords`` (3, X, Y, Z), ``label`` (1, X, Y, Z), float32.

    Half of the patches are warped; 10 % are blurred, and 20 % each change contrast or receive noise. Cost: a warp of 30000
    voxels takes about 6 ms on one core, mostly for trilinear interpolation in double precision.
    """

    def __init__(self, seed: int, view: Triple) -> None:
        # MONAI rotates the voxel grid: with few thick slices, a tilt of 0.2 would move the view's edge across half of them
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
        """Return the changed patch as plain tensors: MONAI's tensors with metadata would double the cost of later operations."""
        patch = self._warped(patch)
        changed: Any = self.intensities({"image": patch["image"]})
        return {**patch, "image": _plain(changed["image"])}

    def _warped(self, patch: Patch) -> Patch:
        """Return the same result as RandAffined in two thirds of its time.

        Image and coordinates share one resampling, and no matrix is stored for an inverse that is never used.
        """
        warp = self._warp
        warp.randomize(None)
        affine = warp.rand_affine
        affine.randomize()
        if not warp._do_transform:
            return patch
        shape = patch["label"].shape[1:]
        grid = affine.rand_affine_grid(shape, grid=affine.get_identity_grid(shape, lazy=False))
        for _ in warp.keys:
            affine.randomize()  # RandAffined draws once per key: the same draws keep results reproducible
        channels = len(patch["image"])
        moved = _plain(
            affine.resampler(torch.cat([patch["image"], patch["coords"]]), grid, mode="bilinear", padding_mode="border")
        )
        label = _plain(affine.resampler(patch["label"], grid, mode="nearest", padding_mode="border"))
        return {"image": moved[:channels], "coords": moved[channels:], "label": label}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)
