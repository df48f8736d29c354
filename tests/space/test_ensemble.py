"""The average of several networks: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metanas_med.space import get_space
from metanas_med.space.ensemble import Ensemble
from metanas_med.space.network import SegmentationNet
from metanas_med.space.settings import SpaceSettings

MakeSettings = Callable[..., Any]


def nets(space: SpaceSettings, number: int) -> list[SegmentationNet]:
    made = []
    for seed in range(number):
        torch.manual_seed(seed)
        made.append(SegmentationNet(get_space(space).build(None), 1, 2, space.widths).eval())
    return made


@torch.no_grad()
def test_its_probabilities_are_the_mean_of_its_members(tiny_settings: MakeSettings) -> None:
    members = nets(tiny_settings().space, 3)
    images, coords, strides = torch.randn(2, 1, 8, 8, 6), torch.randn(2, 3, 8, 8, 6), [(2, 2, 1), (2, 2, 2)]
    expected = torch.stack([net(images, coords, strides).softmax(1) for net in members]).mean(0)
    found = Ensemble(members)(images, coords, strides).softmax(1)
    assert torch.allclose(found, expected, atol=1e-6) and Ensemble(members).num_organs == 2
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])
