"""Settings of tracking."""

from __future__ import annotations

from ..config import Section


class TrackSettings(Section):
    """Where the run is mirrored; local files are always written."""

    wandb: bool = False  #: mirror the run to Weights & Biases
    project: str = "metanas-med"  #: its project there
    name: str = ""  #: the run's name there; empty: W&B chooses one, because the folder's name may be private
    images: bool = True  #: draw slices of a validation scan; false (--no-images): no picture of a scan is drawn or sent
