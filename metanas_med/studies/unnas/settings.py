"""The settings of UnNAS' experiment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from ...config import ByName, LearnerSettings, PlanSettings, PretextSettings, Section
from ...space import SPACES, SpaceSettings, UNetSupernetSettings


class UnnasSettings(Section):
    """Do label-free tasks rank architectures as labels do? Architectures from one seed, each trained on every task."""

    data: str = "../shared/data"  #: a folder of data set folders
    cache: str = "runs/unnas/cache"  #: prepared scans
    out: str = "runs/unnas"  #: one JSON a cell; of one set of settings
    results: str = ""  #: CSV, figure and page; empty: ``out``
    workers: int = Field(default=2, ge=1)  #: processes of one thread each
    only: str = ""  #: run only cells whose name holds this (or one of several, with commas)
    dataset: str = "Ext20_ProstateMR"  #: of no test group of the benchmark
    organ: str = "all"
    num_query: int = Field(default=9, ge=1)  #: scans that are scored; all scans of other patients train
    query_volumes: int = Field(default=4, ge=1)  #: volumes of a pretext that are made of each of them
    seed: int = Field(default=0, ge=0)  #: of architectures, weights and draws
    num_architectures: int = Field(default=60, ge=1)
    levels: tuple[int, ...] = (2, 3, 4)  #: an architecture draws one of them,
    base_widths: tuple[int, ...] = (4, 8, 16)  #: one of these,
    space: Annotated[SpaceSettings, SerializeAsAny(), ByName.of(SPACES)] = (  # type: ignore[operator]
        UNetSupernetSettings()
    )  #: and a genotype of this space with both
    pretexts: tuple[str, ...] = ("rotation", "jigsaw", "colorization", "inpainting", "random-labels")
    label_seeds: int = Field(default=2, ge=2)  #: trainings with labels: their agreement bounds what a rank correlation can reach
    seconds: float = Field(default=60.0, gt=0)  #: of processor time that each training takes at least
    other_seconds: float = Field(
        default=25.0, ge=0
    )  #: first guess of what a cell takes beside its training, until cells are done
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  #: of convolutions, on the CPU
    plan: PlanSettings = PlanSettings()
    pretext: PretextSettings = PretextSettings()
    train: LearnerSettings = LearnerSettings()  #: of every task alike; ``steps`` follow from ``seconds``
