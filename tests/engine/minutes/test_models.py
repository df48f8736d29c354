"""Models of several networks, and models that ask for test-time augmentation: files, prediction, older models."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas_med.data.cached import CachedDataset
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.model import Model
from metanas_med.errors import CheckpointError
from metanas_med.space.ensemble import Ensemble
from metanas_med.space.network import SegmentationNet


@pytest.fixture(scope="module")
def model(start: MetaRun, pair: CachedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "one"
    settings = AdaptSettings(shots=2, steps=1, evaluate=0, images=False, device="cpu", precision="float32")
    adapt(start, pair, out, settings)
    return out


def test_an_average_is_saved_and_loaded(model: Path, pair: CachedDataset, tmp_path: Path) -> None:
    one = Model.load(model, "cpu", "float32")
    assert "members" not in (note := json.loads((model / "model.json").read_text())) and "tta" not in note and not one.tta
    assert isinstance(one.net, SegmentationNet)
    other = copy.deepcopy(one.net)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn_like(p))
    one.net, one.tta = Ensemble([one.net, other]).eval(), True
    one.save(tmp_path)
    found = Model.load(tmp_path, "cpu", "float32")
    assert isinstance(found.net, Ensemble) and len(found.net.members) == 2 and found.tta
    case = pair.cases[0]
    image = pair.image(case.name)
    assert np.array_equal(found.segment(image, case.spacing), one.segment(image, case.spacing, tta=True))
    assert np.array_equal(found.segment(image, case.spacing, tta=False), one.segment(image, case.spacing, tta=False))


@pytest.mark.parametrize(("key", "value"), [("members", 3), ("members", 0), ("members", "2"), ("members", 1000), ("tta", "yes")])
def test_a_model_with_other_members_than_it_says_is_refused(model: Path, tmp_path: Path, key: str, value: object) -> None:
    note = json.loads((model / "model.json").read_text())
    del note["note_sha256"]
    (tmp_path / "model.json").write_text(json.dumps({**note, key: value}))
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="cannot be used|do not fit"):
        Model.load(tmp_path, "cpu", "float32")
