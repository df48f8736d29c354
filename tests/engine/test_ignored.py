"""Ignored voxels count nowhere: no random value under them changes a bit of a model or of its scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.data.settings import PlanSettings
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.evaluate_model import evaluate
from metanas_med.engine.support import open_dataset
from metanas_med.ignored import IGNORED
from metanas_med.tasks.episode import make_episode
from metanas_med.tasks.organ import task_in

from ..data.ignored_scans import with_ignored


def fitted(run: Path, root: Path, **given: Any) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Return the tensors, the plan and organs, and the scores of a model that was fitted to a folder."""
    data = open_dataset(root, root.parent / "cache")
    s = AdaptSettings(organ="left", shots=2, steps=4, evaluate=1, device="cpu", precision="float32", **given)
    adapt(run, data, root.parent / "model", s)
    note = json.loads((root.parent / "model/model.json").read_text())
    scores = evaluate(root.parent / "model", data, root.parent / "scores")
    return (root.parent / "model/model.safetensors").read_bytes(), note, scores


def test_random_values_under_the_ignore_label_change_no_bit(tiny_run: Path, phantoms: Path, tmp_path: Path) -> None:
    found = [fitted(tiny_run, with_ignored(phantoms / "Phantom06_Pair", tmp_path / str(seed) / "Pair", seed)) for seed in (1, 2)]
    assert found[0] == found[1]
    plain = Path(shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "plain" / "Pair"))
    assert fitted(tiny_run, plain)[0] != found[0][0]  # the test can fail


def test_ignored_voxels_reach_volumes_and_queries_as_such(phantoms: Path, tmp_path: Path) -> None:
    data = open_dataset(with_ignored(phantoms / "Phantom06_Pair", tmp_path / "Pair", 1), tmp_path / "cache")
    task, names = task_in(data, "left"), [case.name for case in data.cases]
    episode = make_episode(data, task, names[:2], names[2:3], PlanSettings(view_voxels=2000), 2)
    for volume in episode.support:
        assert set(volume.label.unique().tolist()) <= {0, 1, IGNORED} and (volume.label == IGNORED).any()
    assert (episode.query[0].truth == IGNORED).mean() == pytest.approx(1 / 3, abs=0.05)
    # the plan is that of the organ: it does not grow with the ignored part
    whole = open_dataset(phantoms / "Phantom06_Pair", tmp_path / "whole")
    twin = make_episode(whole, task_in(whole, "left"), names[:2], (), PlanSettings(view_voxels=2000), 2)
    assert np.prod(episode.plan.spacing) <= np.prod(twin.plan.spacing) * 1.01
