"""The settings of grids of adaptations: the first run, the few-shot benchmark, UnNAS' experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .recipe import LearnerSettings, PlanSettings, PretextSettings, Settings, SpaceSettings
from .section import Section


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
    space: SpaceSettings = SpaceSettings()  #: and a genotype of this space with both
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
