"""Tracking: one protocol; local files are the complete record, and Weights & Biases mirrors them on request."""

from __future__ import annotations

from collections.abc import Mapping
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
    private: Mapping[str, str] | None = None,
) -> Tracker:
    """Return a tracker that writes to ``folder`` and, with ``wandb``, mirrors to W&B; a failing mirror never stops the run.

    ``name`` (random by default) and ``kind`` label the run on W&B; ``resume`` continues the rows in ``folder``. ``private`` maps
    names, such as those of data sets, to what W&B gets instead.
    """
    local = LocalTracker(folder, resume=resume)
    if not wandb:
        return local

    def mirror() -> Tracker:
        from .wandb_tracker import WandbTracker

        return WandbTracker(Path(folder), project=project, name=name, kind=kind, resume=resume, private=private)

    return Trackers(local, mirror)
