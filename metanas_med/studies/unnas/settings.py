"""The settings of the experiment of UnNAS."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...data.settings import PlanSettings
from ...learner import DartsSettings
from ...pretext.settings import PretextSettings
from ...space import UNetSupernetSettings
from ..grid.settings import GridSettings


class UnnasSettings(GridSettings):
    """Which architectures are trained on which tasks, and for how long."""

    cache: str = "runs/unnas/cache"  #: prepared scans
    out: str = "runs/unnas"  #: one JSON a cell, all made with one set of settings
    dataset: str = "Ext20_ProstateMR"  #: not one of the benchmark's test groups
    organ: str = "all"
    num_query: int = Field(default=9, ge=1)  #: scans that are scored; all scans of other patients train
    query_volumes: int = Field(default=4, ge=1)  #: volumes of a pretext task that are made of each of them
    seed: int = Field(default=0, ge=0)  #: of architectures, weights and draws
    num_architectures: int = Field(default=60, ge=1)
    levels: tuple[int, ...] = (2, 3, 4)  #: an architecture draws one of them,
    base_widths: tuple[int, ...] = (4, 8, 16)  #: one of these,
    space: UNetSupernetSettings = UNetSupernetSettings()  #: and a genotype of this space with both
    pretexts: tuple[str, ...] = ("rotation", "jigsaw", "colorization", "inpainting", "random-labels")
    label_seeds: int = Field(default=2, ge=2)  #: trainings with labels; their agreement limits what a rank correlation can reach
    seconds: float = Field(default=60.0, gt=0)  #: minimum processor time of each training
    other_seconds: float = Field(default=25.0, ge=0)  #: first guess of the rest of a cell's time, until cells are done
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  #: of convolutions, on the CPU
    plan: PlanSettings = PlanSettings()
    pretext: PretextSettings = PretextSettings()
    train: DartsSettings = DartsSettings()  #: the same for every task; ``steps`` follow from ``seconds``
