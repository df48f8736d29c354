"""The settings of the few-shot benchmark."""

from __future__ import annotations

from pydantic import Field

from ...config import Section
from ...data.settings import PlanSettings
from ...engine.settings import Settings, load_settings
from ...learner import DartsSettings
from ...resources import find_resource
from ..grid.settings import GridSettings


class BenchmarkData(Section):
    """A data set whose organs the benchmark adapts to."""

    dataset: str
    organs: tuple[str, ...] = ()  #: adapted one by one as well, by the methods of ``each_organ``


class BenchmarkGroup(Section):
    """Data sets that are held out together."""

    name: str
    hold_out: tuple[str, ...]
    data: tuple[BenchmarkData, ...]
    development: bool = False  #: settings may be chosen on it; it is no part of the claim


class BenchmarkSettings(GridSettings):
    """Which methods adapt to which organs, from how many scans and for how many steps."""

    out: str = "runs/benchmark"  #: meta-trained states and one JSON a cell, all made with one set of settings
    groups: tuple[BenchmarkGroup, ...] = ()
    methods: tuple[str, ...] = ()  #: in order of importance: where ``max_hours`` is too short, the last ones are left out
    each_organ: tuple[str, ...] = ("metanas",)  #: methods that also adapt to every organ separately
    shots: tuple[int, ...] = (5, 1)
    steps: tuple[int, ...] = (20, 0)  #: scored on ``num_query`` cases
    curve_steps: tuple[int, ...] = (5, 100)  #: scored on ``curve_query`` of them
    #: of methods without search, scored like ``steps``: as many gradient evaluations as a bilevel search of 20 steps
    matched_steps: tuple[int, ...] = (30,)
    #: of metanas, scored like ``steps``: as many gradient evaluations as label-free steps and a search of 20 steps
    search_steps: tuple[int, ...] = ()
    num_query: int = Field(default=10, ge=1)
    curve_query: int = Field(default=4, ge=1)
    draws: int = Field(default=3, ge=1)
    seeds: int = Field(default=2, ge=1)  #: of the methods that are compared most closely; other methods have one
    max_hours: float = Field(default=14.0, gt=0)  #: predicted, all workers together
    #: first guess of the seconds of a gradient step, until cells are done; a step of a bilevel search counts twice
    step_seconds: float = Field(default=0.3, gt=0)
    meta_seconds: float = Field(default=900.0, gt=0)  #: first guess for a meta-training without a limit in seconds
    case_seconds: float = Field(default=0.5, gt=0)  #: first guess for a scored case
    peer_seconds: float = Field(default=300.0, ge=0)  #: first guess for what nnU-Net does outside its training
    notes: str = ""  #: text for the report: how the settings were chosen
    run: Settings = Settings(adapt=DartsSettings())  #: meta-training and adaptation, the same for every method
    plan: PlanSettings = PlanSettings()  #: of the adaptations; meta-training uses ``run.plan``


def shipped_benchmark() -> BenchmarkSettings:
    """Return the settings of the shipped benchmark."""
    return load_settings(find_resource("configs", "benchmark"), base=BenchmarkSettings)
