"""Losses of one tiny meta-training and of one adaptation from it, as numbers: a refactor must not move them.

Tolerance 1e-3: processors differ in the order of their sums. Rates are small here, because steps of Muon and Adam magnify such
differences. To record new numbers after a change of results that is
intended, print ``curve(...)`` and say in the commit why they moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.phases import features_around

#: of five iterations: one of features, two of the task learner (Reptile), commitment, two of the discrete network's features
CHANGES: dict[str, Any] = {
    "meta.iterations": 5,
    "meta.batch": 1,
    "meta.num_validation": 0,
    "meta.commit": 0.6,
    "phases": features_around(0.2, 0.4),
    "features.voxels": 60,
    "features.alpha_lr": 0.02,
    "features.optimizer": "muon",
    "features.kernel_lr": 2e-3,
    "features.diversity": 0.3,
    "learner.steps": 3,
    "learner.lr": 1e-3,
    "adapt.lr": 1e-3,
    "adapt.steps": 4,
    "adapt.alpha": "adapt",
    "tasks.hold_out": ("Phantom06_Pair",),
    "tasks.shots": (2,),
}
META_LOSSES = [0.87537, 0.87305, 1.17303, 1.01885, 0.94218]
ALPHA_TOPS = [0.28907, 0.29774, 0.31509, 0.46843, 0.46843]
ADAPT_LOSSES = [1.15820, 1.21495, 0.87073, 1.27359]


def curve(settings: Any, pair: Path, out: Path) -> tuple[list[dict[str, float]], list[float]]:
    """Return the rows of the meta-training and the losses of the adaptation."""
    run = meta_train(settings, out / "run")
    rows = [json.loads(line) for line in (run / "iteration.jsonl").read_text().splitlines()]
    given = AdaptSettings(organ="left", shots=2, evaluate=0, device="cpu", precision="float32")
    return rows, adapt(run, pair, out / "model", given)["report"]["losses"]


def test_losses_are_the_recorded_ones(tiny_settings: Callable[..., Any], phantom_cache: Path, tmp_path: Path) -> None:
    rows, losses = curve(tiny_settings(**CHANGES), phantom_cache / "Phantom06_Pair.h5", tmp_path)
    assert [row["loss"] for row in rows] == pytest.approx(META_LOSSES, abs=1e-3)
    assert [row["alpha_top"] for row in rows] == pytest.approx(ALPHA_TOPS, abs=1e-3)
    assert losses == pytest.approx(ADAPT_LOSSES, abs=1e-3)
