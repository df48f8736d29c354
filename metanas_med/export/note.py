"""What stands beside every export: the plan and label values that prediction needs, a hash, the licence and its limits."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..engine.model import Model
from ..files import sha256_file, write_json
from .graph import RESEARCH_ONLY

FORMAT = 1


def note_of(model: Model, **more: Any) -> dict[str, Any]:
    """Return the note of an export. It names no scan, no data set and no folder."""
    return {
        "format": FORMAT,
        "made_by": f"metanas_med {__version__}",
        "versions": {name: version(name) for name in ("torch", "numpy")},
        "research_only": RESEARCH_ONLY,
        "licence": "the licence of the training data applies to the weights; the code is Apache-2.0",
        "organs": list(model.task.names),
        "label_values": [int(value) for value in model.label_values[1:]],
        "channels": len(model.plan.intensities),
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "plan": {**model.plan.to_json(), "in_one_piece": list(model.plan.in_one_piece or (False,) * model.task.num_organs)},
        **more,
    }


def write_note(folder: Path, model: Model, file: Path, **more: Any) -> Path:
    """Return ``plan.json`` in ``folder`` after writing the note of an export whose graph is ``file``."""
    more = {"graph": file.name, "sha256": sha256_file(file), "bytes": file.stat().st_size, **more}
    write_json(folder / "plan.json", note_of(model, **more))
    return folder / "plan.json"
