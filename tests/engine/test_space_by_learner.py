"""One meta-training and one adapt with every search space, and with every task learner of the literature, on tiny phantoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.learner_presets import preset_names, read_learner_preset
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.model import Model
from metanas_med.engine.predict_scans import predict
from metanas_med.engine.settings import Settings
from metanas_med.engine.support import open_dataset
from metanas_med.space import get_space, read_genotype
from metanas_med.space.base import reason_against

from ..space.small import Case, cases

#: each form of each space, in 3D where it can
FORMS = list({(case.name, case.form): case for case in reversed(cases())}.values())
MakeSettings = Callable[..., Settings]
#: cells whose candidates run one by one, a pair and a gate: every relaxation has something to do
CELLS: dict[str, Any] = {
    "base_width": 4,
    "max_width": 4,
    "levels": 2,
    "nodes": (1, 2),
    "coarse_from": 1,
    "candidates": ("conv333", "identity"),
    "coarse_candidates": ("max_pool",),
    "edge": "darts",
}
BRIEF = {
    "meta.iterations": 2,
    "meta.batch": 1,
    "meta.num_validation": 0,
    "learner.steps": 2,
    "adapt.steps": 3,
    "plan.view_voxels": 512,
}


def flat(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for name, value in values.items()}


def train_and_adapt(settings: Settings, phantoms: Path, out: Path) -> tuple[MetaRun, dict[str, Any], Model]:
    """Return the run, the note of an adaptation to two scans, and the model, which has predicted one scan."""
    run = MetaRun.load(meta_train(settings, out / "meta"))
    dataset = open_dataset(Path(settings.cache) / "Phantom01_Bean.h5")
    given = {"device": "cpu", "precision": "float32", "images": False}
    note = adapt(run, dataset, out / "model", AdaptSettings(shots=2, evaluate=0, **given))
    model = Model.load(out / "model", "cpu")
    scan = sorted((phantoms / "Phantom01_Bean" / "imagesTr").iterdir())[0]
    assert predict(model, [scan], out / "maps")[0].exists()
    return run, note, model


@pytest.mark.parametrize("case", FORMS, ids=str)
def test_every_space_is_meta_trained_and_adapted(case: Case, tiny_settings: MakeSettings, phantoms: Path, tmp_path: Path) -> None:
    space = {**case.settings.model_dump(), "base_width": 4, "max_width": 8}
    searched = any(row.type != "sampled" for row in get_space(case.settings).rows().values())
    fixed = {} if searched else {"learner.alpha": "frozen", "adapt.alpha": "frozen"}
    settings = tiny_settings(**BRIEF, **fixed, **flat("space", space))
    run, note, model = train_and_adapt(settings, phantoms, tmp_path)
    assert run.settings.space == settings.space and all(w.isfinite().all() for w in run.state.weights.values())
    assert bool(run.state.alphas) == searched
    assert len(note["report"]["losses"]) == 3 and note["report"]["genotype"] == model.genotype
    if searched:
        own, picks = read_genotype(model.genotype)
        assert own == settings.space and not reason_against(get_space(own), picks) and model.net.body.picks == picks


@pytest.mark.parametrize("name", preset_names())
def test_every_learner_is_meta_trained_and_adapts(name: str, tiny_settings: MakeSettings, phantoms: Path, tmp_path: Path) -> None:
    """The preset's own parts; steps and batches of the tests."""
    learner, adapted = (read_learner_preset(name, section) for section in ("learner", "adapt"))
    adapted["discretizer"] = {"name": "argmax", **adapted.get("discretizer", {}), "phase": 0.7, "max_steps": 0}
    settings = tiny_settings(**BRIEF, **flat("space", CELLS), **flat("learner", learner), **flat("adapt", adapted))
    run, note, model = train_and_adapt(settings, phantoms, tmp_path)
    assert run.settings.learner.alpha == "adapt" and note["report"]["alpha"] == "adapt"  # type: ignore[attr-defined]
    assert run.state.alphas and all(a.isfinite().all() for a in run.state.alphas.values())
    moving = settings.learner.relaxation.name != "uniform"  # type: ignore[attr-defined]
    assert any(a.any() for a in run.state.alphas.values()) == moving
    assert read_genotype(model.genotype)[0] == settings.space and len(note["report"]["losses"]) == 3
