"""Settings of tracking."""

from __future__ import annotations

from ..config import Section


class TrackSettings(Section):
    """Where the run is mirrored; local files are always written."""

    wandb: bool = False  #: mirror the run to Weights & Biases
    project: str = "metanas-med"  #: its project there
