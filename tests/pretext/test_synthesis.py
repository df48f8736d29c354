"""Made-up volumes: their shapes come from the given label maps, and appearances share labels and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.data.cache import open_caches
from metanas_med.data.cached import CachedDataset
from metanas_med.data.settings import PlanSettings
from metanas_med.pretext import SynthesisSource, build_synthesis
from metanas_med.pretext.settings import PretextSettings

PLAN = PlanSettings(view_voxels=4000)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed) or 0)


@pytest.fixture(scope="module")
def sets(phantom_cache: Path) -> dict[str, CachedDataset]:
    return open_caches(phantom_cache)


def source(sets: dict[str, CachedDataset] | None, dims: int = 3, **changes: Any) -> SynthesisSource:
    settings = PretextSettings.model_validate({"synthesis": changes})
    return build_synthesis(None if sets is None else sets.values(), settings, PLAN, 3, dims)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("appearances", [2, 3])
def test_episodes(sets: dict[str, CachedDataset], dims: int, appearances: int) -> None:
    found, numbers, thick = source(sets, dims, appearances=appearances), set(), 0
    for seed in range(15):
        episode = found.draw(rng(seed))
        assert not episode.lasting and not episode.query and episode.task.dataset == "pretext-synthesis"
        assert len(episode.support) == appearances and len(episode.plan.strides) == 2
        first, *others = episode.support
        shape, number = tuple(first.label.shape), episode.task.num_organs
        assert episode.plan.view == shape and 2800 < np.prod(shape) < 8000  # at least six slices
        assert first.label.dtype == torch.uint8 and torch.unique(first.label).tolist()[-number:] == list(range(1, number + 1))
        assert torch.bincount(first.label.flatten().long()).min() >= 8 or not (first.label == 0).any()
        for volume in episode.support:
            assert volume.image.shape == (1, *shape) and volume.image.dtype == torch.float32 and volume.image.isfinite().all()
            assert float(volume.image.std()) == pytest.approx(1, abs=0.01) and abs(float(volume.image.median())) < 0.01
            assert torch.equal(volume.label, first.label)
        assert all(not torch.equal(volume.image, first.image) for volume in others)
        numbers.add(number)
        thick += episode.plan.spacing[2] > 1
        assert episode.plan.spacing[2] == 1 or shape[2] < min(shape[:2])
    assert 2 <= min(numbers) and max(numbers) <= 8 and len(numbers) > 3
    assert thick == 15 if dims == 2 else 1 <= thick <= 9
