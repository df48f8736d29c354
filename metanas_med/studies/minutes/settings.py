"""The settings of the comparison of methods at equal time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from ...engine.minutes.settings import MinutesSettings
from ...space.unet import UNetSettings
from ..grid.settings import Folders

#: by name: what the method is
METHODS: Mapping[str, str] = {
    "minutes": "`adapt --minutes`, from the start",
    "default": "its default for as long, without a search",
    "fresh": "the fixed U-Net from fresh weights",
    "joint": "the fixed U-Net from joint pretraining",
    "nnunet": "nnU-Net, which uses the time for training alone",
}


class MinutesStudySettings(Folders):
    """Which methods adapt to which data sets, and for how long."""

    start: str = "default"  #: a shipped start or the folder of a run, which must not have seen the data sets
    joint: str = ""  #: folder of a jointly pretrained U-Net; empty: the method ``joint`` is left out
    unet: UNetSettings = (
        UNetSettings()
    )  #: network of fresh weights where there is no ``joint``, whose network they have otherwise
    cache: str = "runs/start/cache"  #: prepared scans of the data sets
    out: str = "runs/minutes"  #: one JSON a cell, all made with one set of settings
    workers: int = Field(default=1, ge=1)  #: cells at a time; with one, a cell has all threads
    only: str = ""  #: run only cells whose name contains this, or one of several, with commas
    methods: tuple[str, ...] = tuple(METHODS)
    datasets: tuple[str, ...] = ()
    shots: int = Field(default=5, ge=1)  #: scans of a support
    budgets: tuple[float, ...] = (10, 60, 300)  #: seconds, from that many scans
    one_scan_budgets: tuple[float, ...] = (60,)  #: seconds, from one scan
    long_budgets: tuple[float, ...] = (1800,)  #: seconds, on ``long_datasets`` alone; nnU-Net has no others
    long_datasets: tuple[str, ...] = ()
    draws: int = Field(default=2, ge=1)  #: supports that are drawn of each data set
    long_draws: int = Field(default=1, ge=1)  #: of them, for long budgets
    num_query: int = Field(default=10, ge=1)  #: scored scans of other patients, the same for all draws
    threads: int = Field(default=0, ge=0)  #: torch threads of a cell; 0: all cores, shared among workers
    device: str = "cpu"  #: auto, cpu, cuda or cuda:N
    search: MinutesSettings = MinutesSettings()  #: of the method ``minutes``
    alone: dict[str, Any] = {"max_candidates": 1, "estimate_share": 0.0}  #: changes of ``search`` for methods that choose nothing
    tta: bool = True  #: predict with test-time augmentation; the method ``minutes`` decides that itself
    nnunet: str = "docs/results/results.csv.xz"  #: results of the benchmark: its nnU-Net cells from the same supports are shown

    @field_validator("methods")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in METHODS]:
            raise ValueError(f"no method is called {unknown[0]!r}; expected some of {', '.join(METHODS)}")
        return value

    @field_validator("budgets", "one_scan_budgets", "long_budgets")
    @classmethod
    def _are_times(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(seconds <= 0 for seconds in value):
            raise ValueError("expected seconds above 0")
        return value

    @property
    def search_alone(self) -> MinutesSettings:
        """Return the settings of methods that choose nothing; ConfigError for an unknown key."""
        return MinutesSettings.model_validate({**self.search.model_dump(), **self.alone})
