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

    At a ``strength`` s of 1, half of the patches are warped; 10 % are blurred, and 20 % each change contrast or receive noise.
    Each probability is multiplied by s, up to 1. So are angles, the deviation of scales from 1, shifts, blur widths and noise
    levels. Contrast exponents lie between 0.7^s and 1.5^s. Cost: a warp of 30000 voxels takes about 6 ms on one core, mostly
    for trilinear interpolation in double precision.
    """

    def __init__(self, seed: int, view: Triple, strength: float = 1.0) -> None:
        s = strength
        # MONAI rotates the voxel grid: with few thick slices, a tilt of 0.2 would move the view's edge across half of them
        tilt = 0.2 * s * min(1.0, view[2] / max(view[:2]))
        blur = (0.3 * s, 0.8 * s)
        self._warp = RandAffined(
            ["image", "coords", "label"],
            prob=min(0.5 * s, 1.0),
            rotate_range=(tilt, tilt, 0.3 * s),
            scale_range=(0.15 * s, 0.15 * s, 0.15 * s),
            translate_range=(2 * s, 2 * s, s),
        )
        self.intensities = Compose(
            [
                RandGaussianSmoothd(["image"], prob=min(0.1 * s, 1.0), sigma_x=blur, sigma_y=blur, sigma_z=blur),
                RandAdjustContrastd(["image"], prob=min(0.2 * s, 1.0), gamma=(0.7**s, 1.5**s), retain_stats=True),
                RandGaussianNoised(["image"], prob=min(0.2 * s, 1.0), std=0.15 * s),
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
