"""Augmentation gives the same result as MONAI's own dictionary transforms, with fewer calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import RandAdjustContrastd, RandGaussianNoised, RandGaussianSmoothd
from monai.transforms.spatial.dictionary import RandAffined

from metanas_med.data.augment import Augmentation


@pytest.mark.parametrize("view", [(12, 9, 10), (14, 11, 3)])
def test_equal_to_the_transforms_of_monai_bit_for_bit(view: tuple[int, int, int]) -> None:
    tilt = 0.2 * min(1.0, view[2] / max(view[:2]))
    keys = ["image", "coords", "label"]
    theirs = Compose(
        [
            RandAffined(
                keys,
                prob=0.5,
                rotate_range=(tilt, tilt, 0.3),
                scale_range=(0.15, 0.15, 0.15),
                translate_range=(2, 2, 1),
                mode=["bilinear", "bilinear", "nearest"],
                padding_mode="border",
            ),
            RandGaussianSmoothd(["image"], prob=0.1, sigma_x=(0.3, 0.8), sigma_y=(0.3, 0.8), sigma_z=(0.3, 0.8)),
            RandAdjustContrastd(["image"], prob=0.2, gamma=(0.7, 1.5), retain_stats=True),
            RandGaussianNoised(["image"], prob=0.2, std=0.15),
        ]
    )
    theirs.set_random_state(seed=3)
    ours = Augmentation(3, view)
    rng = torch.Generator().manual_seed(0)
    changed = 0
    for _ in range(40):
        patch = {
            "image": torch.randn(2, *view, generator=rng),
            "coords": torch.rand(3, *view, generator=rng),
            "label": torch.randint(0, 3, (1, *view), generator=rng).float(),
        }
        given = {key: value.clone() for key, value in patch.items()}
        found = ours(patch)
        expected: Any = theirs({key: value.clone() for key, value in patch.items()})
        for key in keys:
            assert type(found[key]) is torch.Tensor
            assert torch.equal(found[key], expected[key].as_subclass(torch.Tensor)), key
            assert torch.equal(patch[key], given[key]), "the input was changed; a patch may be a view of its scan"
        changed += not torch.equal(found["coords"], given["coords"])
    assert 10 < changed < 30
