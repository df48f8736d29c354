"""The settings of the few-shot benchmark."""

from __future__ import annotations

from pydantic import Field

from ...config import Section
from ...data.settings import PlanSettings
from ...engine.settings import Settings


class BenchmarkData(Section):
    """A data set whose organs the benchmark adapts to."""

    dataset: str
    organs: tuple[str, ...] = ()  #: adapted one by one too, by the methods of ``each_organ``


class BenchmarkGroup(Section):
    """What is held out together."""

    name: str
    hold_out: tuple[str, ...]
    data: tuple[BenchmarkData, ...]
    development: bool = False  #: settings may be chosen on it; it plays no part in the claim


class BenchmarkSettings(Section):
    """The few-shot benchmark: which methods, on which organs, from how many scans, for how many steps."""

    data: str = "../shared/data"  #: a folder of data set folders
    out: str = "runs/benchmark"  #: meta-trained states and one JSON a cell; of one set of settings
    results: str = ""  #: CSV, tables and figures; empty: ``out``
    workers: int = Field(default=2, ge=1)  #: processes of one thread each
    only: str = ""  #: run only cells whose name holds this (or one of several, with commas), and what they rest on
    groups: tuple[BenchmarkGroup, ...] = ()
    methods: tuple[str, ...] = ()  #: in order of importance: what does not fit into ``max_hours`` is left out from the end
    each_organ: tuple[str, ...] = ("metanas",)  #: methods that also adapt to every organ by itself
    shots: tuple[int, ...] = (5, 1)
    steps: tuple[int, ...] = (20, 0)  #: scored on ``num_query`` cases
    curve_steps: tuple[int, ...] = (5, 100)  #: scored on ``curve_query`` of them
    matched_steps: tuple[int, ...] = (
        30,
    )  #: of methods without search, scored like ``steps``: as many gradients as a bilevel search of 20
    search_steps: tuple[
        int, ...
    ] = ()  #: of metanas, scored like ``steps``: as many gradients as label-free steps and a search of 20
    num_query: int = Field(default=10, ge=1)
    curve_query: int = Field(default=4, ge=1)
    draws: int = Field(default=3, ge=1)
    seeds: int = Field(default=2, ge=1)  #: of the methods that are compared most closely; the others have one
    max_hours: float = Field(default=14.0, gt=0)  #: predicted, all workers together
    step_seconds: float = Field(
        default=0.3, gt=0
    )  #: first guess of a gradient step (one of a bilevel search counts twice), until cells are done
    meta_seconds: float = Field(default=900.0, gt=0)  #: and of a meta-training that has no limit in seconds
    case_seconds: float = Field(default=0.5, gt=0)  #: and of a scored case
    peer_seconds: float = Field(default=300.0, ge=0)  #: and of what nnU-Net does beside its training
    notes: str = ""  #: words for the report on how its settings came about
    run: Settings = Settings()  #: meta-training and adaptation, of every method alike
    plan: PlanSettings = PlanSettings()  #: of the adaptations; meta-training takes ``run.plan``
