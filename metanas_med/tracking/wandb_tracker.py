"""The mirror on Weights & Biases; no other file imports ``wandb``."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_json
from ..privacy import PRIVATE_FILE, redact, renamed
from .base import plain

#: The files that an artifact may contain, in addition to the JSON file of the same name for each file of tensors. Other JSON
#: files, such as adaptation.json and cases.private.json, are not uploaded.
UPLOADED = ("*.safetensors", "architecture.json")
#: keys of checkpoints whose values are "dataset/organ", which is no path
_KEYS = frozenset({"train_tasks", "validation_tasks"})
_PRIVATE = {
    "silent": True,
    "console": "off",
    "save_code": False,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "init_timeout": 30.0,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "host": "",
    "program": "metanas-med",
}


class WandbTracker:
    """Mirrors a run to W&B: online if ``WANDB_API_KEY`` is set, else offline in ``folder``; ``WANDB_MODE`` overrides this.

    ``name`` and ``kind`` (the job type) are shown on W&B. With ``resume`` the run id stored in ``folder`` is used again.
    ``private``: names and what is sent instead of them. Paths and names of files are never sent (``privacy.redact``).
    """

    def __init__(
        self,
        folder: Path,
        project: str = "metanas-med",
        name: str | None = None,
        kind: str = "run",
        resume: bool = False,
        private: Mapping[str, str] | None = None,
    ) -> None:
        import wandb

        self._private = dict(private or {})

        self._wandb = wandb
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        known = wandb.Settings.model_fields
        settings = wandb.Settings(**{key: value for key, value in _PRIVATE.items() if key in known})
        self.run = wandb.init(
            project=project,
            name=name,
            job_type=kind,
            id=_run_id(Path(folder), resume),
            resume="allow" if resume and mode == "online" else None,
            dir=str(folder),
            mode=mode,
            settings=settings,
            reinit="create_new",
        )
        self._counters: set[str] = set()

    def config(self, values: Mapping[str, Any]) -> None:
        self.run.config.update(self._shown(values), allow_val_change=True)

    def metrics(self, counter: str, value: int, row: Mapping[str, float]) -> None:
        self._count(counter)
        for key in row:
            self._define(f"{counter}/{key}", counter)
        # no step=: each counter is its own x axis, and rows may be logged in any order
        self.run.log({counter: value, **{f"{counter}/{key}": number for key, number in row.items()}})

    def _count(self, counter: str) -> None:
        if counter not in self._counters:
            self.run.define_metric(counter, hidden=True)
            self._counters.add(counter)

    def _define(self, metric: str, counter: str) -> None:
        if metric not in self._counters:
            self.run.define_metric(metric, step_metric=counter)
            self._counters.add(metric)

    def rewind(self, counter: str, value: int) -> None:
        """Do nothing: repeated rows have the same counter, and W&B shows the later one."""

    def figure(self, name: str, path: Path) -> None:
        path = Path(path)
        drawn: Any
        if path.suffix == ".svg":
            drawn = self._wandb.Html(path.read_text(), inject=False)
        else:
            drawn = self._wandb.Image(str(path))
        self.run.log({name: drawn})

    def artifact(self, name: str, path: Path, kind: str) -> None:
        path = Path(path)
        files, root = ([path], path.parent) if path.is_file() else (sorted(path.rglob("*")), path)
        shown = [item for item in files if not any(part.startswith(".") for part in item.relative_to(root).parts)]  # no drafts
        shown = [item for item in shown if item.is_file() and item.name != PRIVATE_FILE]
        chosen = [item for item in shown if any(fnmatch.fnmatch(item.name, pattern) for pattern in UPLOADED)]
        notes = [note for item in chosen if (note := item.with_suffix(".json")) != item and note.is_file()]
        if chosen:
            artifact = self._wandb.Artifact(re.sub(r"[^\w.-]+", "-", name), type=kind)
            for item in chosen:
                artifact.add_file(str(item), name=item.relative_to(root).as_posix())
            for item in notes:  # a checkpoint cannot be loaded without its note
                with artifact.new_file(item.relative_to(root).as_posix(), mode="w", encoding="utf-8") as stream:
                    shown = self._shown(json.loads(item.read_text()))
                    shown.pop("note_sha256", None)  # of the note with all names
                    json.dump(shown, stream)
            self.run.log_artifact(artifact)

    def summary(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(self._shown(values))

    def _shown(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values`` as they are sent: without paths and private names."""
        found: dict[str, Any] = {}
        for key, value in plain(values).items():
            # in all values: names of data sets are in settings, in lists of tasks, and in keys such as those of "data"
            value = renamed(value, self._private)
            found |= {key: value} if key in _KEYS else redact({key: value})
        return found

    def close(self) -> None:
        self.run.finish()


def _run_id(folder: Path, resume: bool) -> str:
    path = folder / "wandb_run.json"
    if resume and path.exists():
        return str(json.loads(path.read_text())["id"])
    identity = uuid.uuid4().hex[:8]
    write_json(path, {"id": identity})
    return identity
