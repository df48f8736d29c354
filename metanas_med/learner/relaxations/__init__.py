"""How architecture parameters become weights of options; one file per relaxation, imported automatically."""

from collections.abc import Mapping
from typing import Any

from ...registry import import_parts
from ...space.choice import Relaxed
from .base import RELAXATIONS, RelaxationSettings, register_relaxation
from .softmax import Softmax, SoftmaxSettings

__all__ = [
    "RELAXATIONS",
    "RelaxationSettings",
    "Softmax",
    "SoftmaxSettings",
    "read_relaxed",
    "register_relaxation",
    "relaxed_note",
    "start_relaxed",
]

import_parts(__name__, __path__)


def start_relaxed(settings: Any) -> Relaxed:
    """Return the state in which a run of a task learner with ``settings`` starts."""
    part = getattr(settings, "relaxation", None)
    return Relaxed(RELAXATIONS.build(part.name, part)) if part is not None else Relaxed()


def relaxed_note(relaxed: Relaxed) -> dict[str, Any]:
    """Return the state of a soft network as JSON values, as ``read_relaxed`` reads them."""
    settings = getattr(relaxed.relaxation, "settings", None)
    return {
        "relaxation": settings.model_dump(mode="json") if settings else None,
        "progress": relaxed.progress,
        "prune": relaxed.prune,
    }


def read_relaxed(note: Mapping[str, Any]) -> Relaxed:
    """Return the state that a model's ``note`` holds: format 2 (``relaxed``), or format 1 (``tau`` and ``prune``)."""
    if "relaxed" not in note:
        tau = float(note["tau"])
        return Relaxed(Softmax(SoftmaxSettings(tau_start=tau, tau_end=tau)), 0.0, float(note["prune"]))
    found = note["relaxed"]
    relaxation = None
    if found["relaxation"] is not None:
        entry = RELAXATIONS.entry(found["relaxation"]["name"])
        relaxation = entry.factory(entry.settings.model_validate(found["relaxation"]) if entry.settings else None)
    return Relaxed(relaxation, float(found["progress"]), float(found["prune"]))
