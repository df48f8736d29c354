"""The settings of the first run."""

from __future__ import annotations

from pydantic import Field

from ..config import Section
from ..data.settings import PlanSettings
from ..engine.settings import Settings


class ComparedGroup(Section):
    """One held-out group of the first run."""

    name: str
    hold_out: tuple[str, ...]
    dataset: str
    organs: tuple[str, ...]
    num_query: int = Field(ge=1)


class FirstRunSettings(Section):
    """Meta-training without a group, then adaptation to its organs beside the same architecture from scratch."""

    data: str = "../shared/data"  #: a folder of data set folders
    out: str = "runs/first_run"  #: checkpoints and one JSON a cell
    results: str = "docs/results"  #: CSV, tables and figures
    workers: int = Field(default=2, ge=1)  #: processes of one thread each
    only: str = ""  #: run only cells whose name holds this (or one of several, with commas), such as heart-all-5shot, and what they rest on
    groups: tuple[ComparedGroup, ...] = ()
    shots: tuple[int, ...] = (5, 1)
    notes: str = ""  #: words for the report on how this run came about
    draws: int = Field(default=3, ge=1)
    steps: tuple[int, ...] = (0, 20, 100)
    variant_steps: tuple[int, ...] = (20,)  #: of frozen and random alpha, and of the head without closed form
    scratch_steps: tuple[int, ...] = (20, 100, 500)
    run: Settings = Settings()
    plan: PlanSettings = PlanSettings()  #: of the adaptations; meta-training takes ``run.plan``
