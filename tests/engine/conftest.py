"""A tiny meta-trained run that several tests start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.config import Settings
from metanas_med.engine.meta_train import meta_train

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def tiny_settings(phantom_cache: Path) -> MakeSettings:
    """``tiny_settings(**{"section.key": value})``: networks of two channels on the phantoms, steps that take milliseconds."""

    def make(**changes: Any) -> Settings:
        learner = {"steps": 2, "batch": 1, "ridge_voxels": 60, "lr": 0.01}
        tree: dict[str, Any] = {
            "seed": 1,
            "device": "cpu",
            "precision": "float32",
            "cache": str(phantom_cache),
            "space": {"base_width": 2, "max_width": 4, "levels": 3, "nodes": (1,), "coarse_from": 2},
            "plan": {"view_voxels": 400},
            "learner": {**learner, "discretize": False},
            "adapt": learner,
            "tasks": {"shots": (1, 2)},
            "meta": {"iterations": 4, "batch": 2, "validate_every": 2, "num_validation": 1, "checkpoint_every": 2},
        }
        for key, value in changes.items():
            *sections, leaf = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[leaf] = value
        return Settings.model_validate(tree)

    return make


@pytest.fixture(scope="session")
def tiny_run(tiny_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished meta-training without the pair of organs."""
    settings = tiny_settings(**{"tasks.hold_out": ("Phantom06_Pair",), "meta.iterations": 2})
    return meta_train(settings, tmp_path_factory.mktemp("runs") / "tiny")
