"""Tracking: one protocol; local files are the truth, Weights & Biases mirrors them when asked for."""

from __future__ import annotations

from pathlib import Path

from .base import Tracker, Trackers
from .local import LocalTracker, read_rows

__all__ = ["LocalTracker", "Tracker", "Trackers", "open_tracker", "read_rows"]


def open_tracker(
    folder: Path | str,
    wandb: bool = False,
    project: str = "metanas-med",
    name: str | None = None,
    kind: str = "run",
    resume: bool = False,
) -> Tracker:
    """Return a tracker that writes to ``folder``, mirrored to W&B if ``wandb``; a mirror's failure never stops the run.

    ``name`` and ``kind`` label the run there (default: a random name); ``resume`` continues the rows that ``folder`` holds.
    """
    local = LocalTracker(folder, resume=resume)
    if not wandb:
        return local

    def mirror() -> Tracker:
        from .wandb_tracker import WandbTracker

        return WandbTracker(Path(folder), project=project, name=name, kind=kind, resume=resume)

    return Trackers(local, mirror)
