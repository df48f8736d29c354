"""The task learners of the study: presets, with the study's numbers of steps."""

from __future__ import annotations

from typing import Any

from ...engine.learner_presets import read_learner_preset
from ...learner import DartsSettings
from .settings import SpacesSettings


def search_settings(settings: SpacesSettings, learner: str) -> DartsSettings:
    """Return the search of a learner's preset: all of its steps search, and the network is discrete after the last one."""
    preset = read_learner_preset(learner, "adapt")
    end = {**preset.get("discretizer", {"name": "argmax"}), "phase": 1.0, "max_steps": 0}
    return _made(settings, {**preset, "discretizer": end, "steps": settings.search_steps, "batch": settings.batch})


def timed_settings(settings: SpacesSettings, learner: str) -> DartsSettings:
    """Return the search of a preset for a measurement of its steps alone: rows start as they are, and nothing is discretized."""
    preset = read_learner_preset(learner, "adapt")
    return _made(settings, {**preset, "discretizer": {"name": "none"}, **_timed(settings)})


def plain_settings(settings: SpacesSettings) -> DartsSettings:
    """Return the training of a discrete network for a measurement of its steps."""
    return _made(settings, {"alpha": "frozen", **_timed(settings)})


def _timed(settings: SpacesSettings) -> dict[str, Any]:
    # the first step warms up
    return {"steps": settings.timed_steps + 1, "batch": settings.batch, "head": "meta_row", "average": 0.0}


def _made(settings: SpacesSettings, values: dict[str, Any]) -> DartsSettings:
    """Return ``values`` laid over the rates of the study's training."""
    shared = {"optimizer", "lr", "kernel_lr", "head_lr", "beta1", "beta2", "weight_decay", "clip", "ridge_voxels"}
    rates = settings.train.model_dump(include=shared)
    return DartsSettings.model_validate({**rates, "lr_decay": "none", "average": 0.0, **values})
