"""A meta-training that Weights & Biases mirrors: the real package, offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metanas_med.data.cache import open_caches
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.settings import Settings
from metanas_med.privacy import public_name


def test_figures_and_whole_checkpoints_are_mirrored(
    offline: Path, tiny_settings: Callable[..., Settings], phantom_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    logged: dict[str, Any] = {}
    keep = wandb.Run.log_artifact

    def log_artifact(run: Any, artifact: Any) -> Any:
        logged[artifact.name] = artifact
        return keep(run, artifact)

    monkeypatch.setattr(wandb.Run, "log_artifact", log_artifact)
    settings = tiny_settings(
        **{"meta.iterations": 1, "meta.batch": 1, "track.wandb": True, "tasks.hold_out": ("Phantom06_Pair",)}
    )
    folder = meta_train(settings, offline)

    # figures of this run, not made-up ones: a prediction on a scan, the alphas, the architecture that they give
    (sent,) = (folder / "wandb").glob("offline-run-*/files/media")
    for kind, names in {"images": ("validation", "alphas", "meta_training"), "html": ("architecture",)}.items():
        for name in names:
            own = next((folder / "figures").glob(f"{name}.*"))
            (copy,) = (sent / kind).glob(f"{name}_*")
            if kind == "html":
                assert copy.read_text() == own.read_text() and "</svg>" in own.read_text()
                continue
            assert copy.read_bytes() == own.read_bytes()
            with Image.open(copy) as picture:
                assert np.asarray(picture.convert("L")).std() > 5

    # an artifact is a checkpoint to start from like the run's own, but for paths
    assert logged.keys() == {"last", "best"}
    for name, artifact in logged.items():
        back = tmp_path / "back"
        back.mkdir(exist_ok=True)
        assert artifact.manifest.entries.keys() == {f"{name}.safetensors", f"{name}.json"} and artifact.type == "meta-state"
        for file, entry in artifact.manifest.entries.items():
            assert entry.local_path
            (back / file).write_bytes(Path(entry.local_path).read_bytes())
        (there, note), (here, own_note) = (load_state(place, name, "meta-state") for place in (back, folder))
        assert there.keys() == here.keys() and all(torch.equal(there[n], here[n]) for n in here)
        renamed = {key: note[key] for key in ("settings", "held_out", "train_tasks", "validation_tasks", "data", "scans")}
        own_note.pop("note_sha256")  # of the note with all names
        assert note == own_note | renamed and renamed["settings"]["cache"] == "(path)"
        public = {d.name: public_name(d.name, [c.content_hash for c in d.cases]) for d in open_caches(phantom_cache).values()}
        assert note["scans"] == {public[data]: scans for data, scans in own_note["scans"].items()} != {}
        keys = [key.split("/") for key in MetaRun.load(folder, name).train_tasks]
        assert MetaRun.load(back, name).train_tasks == tuple(f"{public[data]}/{organ}" for data, organ in keys) != ()
        assert renamed["held_out"] == [public["Phantom06_Pair"]] == renamed["settings"]["tasks"]["hold_out"]

    # where the scans lie, and what they are called, stays here
    sets = open_caches(phantom_cache)
    private = [str(phantom_cache), *sets, *(case.name for data in sets.values() for case in data.cases)]
    sent_files = [found for place in (folder / "wandb", tmp_path / "elsewhere") for found in place.rglob("*") if found.is_file()]
    for path in (found for found in sent_files if "logs" not in found.parts):  # wandb's own logs are not sent
        content = path.read_bytes()
        assert not [word for word in private if word.encode() in content], path
