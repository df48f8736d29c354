"""Fixtures of the tests of the study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.studies.unnas.settings import UnnasSettings

from .made_up import Make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread as in the grid's workers: two threads on busy cores would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(phantoms: Path, phantom_cache: Path, tmp_path: Path) -> Make:
    """``make(**changes)``: settings of two small architectures on the phantom pair, two pretexts, short trainings."""

    def settings(**changes: Any) -> UnnasSettings:
        tree = {
            "data": str(phantoms),
            "cache": str(phantom_cache),
            "out": str(tmp_path / "out"),
            "results": str(tmp_path / "results"),
            "workers": 1,
            "dataset": "Phantom06_Pair",
            "num_query": 2,
            "query_volumes": 2,
            "num_architectures": 2,
            "levels": [2, 3],
            "base_widths": [2, 4],
            "space": {"max_width": 4, "nodes": [1], "coarse_from": 1},
            "pretexts": ["rotation", "random-labels"],
            "seconds": 0.2,
            "precision": "float32",
            "plan": {"view_voxels": 600},
            "train": {"batch": 2, "optimizer": "muon", "ridge_voxels": 60},
        }
        return UnnasSettings.model_validate(tree | changes)

    return settings


@pytest.fixture
def pair(phantom_cache: Path) -> CachedDataset:
    return open_cache(phantom_cache / "Phantom06_Pair.h5")
